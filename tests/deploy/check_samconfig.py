"""Reads samconfig.toml as SAM does, and prints as JSON what is wrong with it.

usage: check_samconfig.py REPOSITORY
"""

import json
import pathlib
import shlex
import sys

from samcli.lib.config.samconfig import SamConfig
from samtranslator.yaml_helper import yaml_parse

repository = pathlib.Path(sys.argv[1])
config = SamConfig(repository)
parameters = yaml_parse((repository / "infra/template.yaml").read_text())["Parameters"]
faults, stacks, deployments = [], [], []
for name in ("dev", "staging", "prod"):
    building = config.get_all(["build"], "parameters", name)
    if not (repository / building.get("template_file", "template.yaml")).is_file():
        faults.append(f"{name} is built of no template")
    deploying = config.get_all(["deploy"], "parameters", name)
    # Where one is named, SAM deploys that instead of what was built.
    if {"template", "template_file"} & deploying.keys():
        faults.append(f"{name} is deployed of a template that is not built")
    stacks.append(deploying.get("stack_name"))
    given = dict(pair.split("=", 1) for pair in shlex.split(deploying.get("parameter_overrides", "")))
    deployments.append(given.get("Deployment"))
    faults += [f"{name}: {unknown} is no parameter" for unknown in given.keys() - parameters.keys()]
    needed = {parameter for parameter, spec in parameters.items() if "Default" not in spec}
    faults += [f"{name}: {missing} is missing" for missing in needed - given.keys()]
for what, names in (("stacks", stacks), ("deployments", deployments)):
    if None in names or len(set(names)) != len(names):
        faults.append(f"{what}: {names}")
print(json.dumps(faults))

"""Drives the emulator with a client that we did not write: fly-python-sdk, unmodified. It has no argument for another
address than Fly's, so each of its objects is told by its attribute."""

import asyncio
import os
import time

from fly_python_sdk.exceptions import FlyError
from fly_python_sdk.fly.org import Org
from fly_python_sdk.models.machine import FlyMachine, FlyMachineConfig, FlyMachineConfigGuest

URL = os.environ["FLY_URL"]
TOKEN = os.environ["FLY_API_TOKEN"]


def here(client):
    client.base_url = URL
    return client


async def started(machine):
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found = await machine.inspect()
        if found.state == "started":
            return found
        await asyncio.sleep(0.25)
    raise AssertionError("the machine does not start")


async def main():
    org = here(Org(TOKEN, "personal"))
    await org.create_app("sdk-app", "sdk-network")
    try:
        await org.create_app("sdk-app")
        raise AssertionError("a name was given twice")
    except FlyError:
        pass
    apps = await org.list_apps()
    assert [(app.name, app.network, app.machine_count) for app in apps] == [("sdk-app", "sdk-network", 0)], apps
    app = here(org.App("sdk-app"))
    assert (await app.inspect()).organization.slug == "personal"

    config = FlyMachineConfig(
        image="registry.fly.io/agents:1",
        env={"A": "b"},
        guest=FlyMachineConfigGuest(cpu_kind="shared", cpus=1, memory_mb=256),
    )
    made = await app.create_machine(FlyMachine(name="one", region="iad", config=config))
    assert (made.name, made.region, made.config.env) == ("one", "iad", {"A": "b"}), made
    machine = here(app.Machine(made.id))
    assert (await started(machine)).instance_id == made.instance_id
    assert [found.id for found in await app.list_machines(regions=["iad"])] == [made.id]
    events = await machine.get_events()
    assert [event.type for event in events] == ["start", "start", "launch"], events
    try:
        await machine.start()
        raise AssertionError("a machine was started twice")
    except FlyError:
        pass
    copy = await machine.clone(name="two", region="ams")
    assert (copy.name, copy.region, copy.config.image) == ("two", "ams", "registry.fly.io/agents:1"), copy
    try:
        await here(app.Machine(copy.id)).destroy()
        print("destroyed before it ran")
    except FlyError:
        pass
    await app.delete()
    assert await org.list_apps() == []
    wrong = here(Org("another token", "personal"))
    try:
        await wrong.list_apps()
        raise AssertionError("a wrong token was taken")
    except FlyError:
        pass
    print("all checks passed")


asyncio.run(main())

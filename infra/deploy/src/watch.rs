//! The router of `cargo lambda watch`, in the workspace's manifest: which binary answers which path.

use crate::DeployError;
use std::collections::BTreeMap;
use std::fmt::Write;
use theazo_functions::routes::ROUTES;

/// The lines between which the router stands in `Cargo.toml`.
const BEGIN: &str = "# Made by `cargo dev template` from the route table, for `cargo lambda watch`.";
const END: &str = "# End of what is made.";

/// The router as a table of the manifest. A path's rest, `{path*}` in the route table, is `{*path}` there.
pub fn watch_router() -> String {
    let mut paths: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for route in ROUTES {
        let path = route.info.pattern.0;
        let path = match path.rsplit_once('{') {
            Some((before, rest)) if rest.ends_with("*}") => format!("{before}{{*{}}}", rest.trim_end_matches("*}")),
            _ => path.to_owned(),
        };
        let function = format!("{{ method = \"{}\", function = \"{}\" }}", route.info.method, route.info.name);
        paths.entry(path).or_default().push(function);
    }
    let mut out = String::from("[workspace.metadata.lambda.watch.router]\n");
    for (path, functions) in paths {
        let _ = writeln!(out, "\"{path}\" = [{}]", functions.join(", "));
    }
    out
}

/// The manifest with the router as it should be now.
///
/// # Errors
/// [`DeployError::NoMark`] when the place for it is gone.
pub fn with_watch_router(manifest: &str) -> Result<String, DeployError> {
    let (before, rest) = manifest.split_once(BEGIN).ok_or(DeployError::NoMark(BEGIN))?;
    let (_, after) = rest.split_once(END).ok_or(DeployError::NoMark(END))?;
    Ok(format!("{before}{BEGIN}\n{}{END}{after}", watch_router()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_served_by_its_own_binary() {
        let router = watch_router();
        for route in ROUTES {
            let function = format!("{{ method = \"{}\", function = \"{}\" }}", route.info.method, route.info.name);
            assert_eq!(router.matches(&function).count(), 1, "{function}");
        }
        assert!(router.contains("\"/v1/agents/{id}/files/{*path}\" = "), "{router}");
    }

    #[test]
    fn a_manifest_without_the_place_is_refused() {
        assert!(matches!(with_watch_router("[workspace]\n"), Err(DeployError::NoMark(_))));
    }
}

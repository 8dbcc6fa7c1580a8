//! What is banned from the product because it prints what it is given: `println!` and its kin, `dbg!`, and
//! `tracing::instrument`, which records the arguments of a function. Clippy refuses them, in every crate; that it does is
//! seen here, with the workspace's own settings.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod sources;

use sources::{product, words};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The folders beneath one that have a manifest, as they are named from the root.
fn with_manifest(folder: &Path, found: &mut BTreeSet<String>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !name.starts_with('.') && !matches!(name, "target" | "node_modules") {
            if path.join("Cargo.toml").exists() {
                found.insert(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
            with_manifest(&path, found);
        }
    }
}

#[test]
fn every_crate_is_the_workspaces_and_takes_its_lints() {
    let mut crates = BTreeSet::new();
    with_manifest(&root(), &mut crates);
    let manifest = read("Cargo.toml");
    let members = manifest.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let members: BTreeSet<_> = members.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(members.len() > 10, "{members:?}");
    assert_eq!(crates, members, "left: the folders with a manifest; right: the workspace's members");
    for member in members {
        let manifest = read(&format!("{member}/Cargo.toml"));
        assert!(manifest.contains("\n[lints]\nworkspace = true\n"), "{member} has lints of its own");
    }
}

#[test]
fn no_product_code_is_exempt_from_a_ban() {
    let bans = ["print_stdout", "print_stderr", "dbg_macro", "disallowed_macros"];
    for (file, code) in product() {
        let named = words(&code).find(|word| bans.contains(word));
        assert_eq!(named, None, "{file} makes an exception");
        // What would take all lints away with one word.
        for whole in ["allow(clippy::all", "allow(clippy::restriction", "allow(warnings"] {
            assert!(!code.contains(whole), "{file}: {whole}");
        }
    }
}

/// A line that must be refused, and by which lint; or that must not be, so that what refuses everything is found too.
const SAMPLE: [(&str, Option<&str>); 9] = [
    ("pub fn a(secret: &str) { println!(\"{secret}\"); }", Some("print_stdout")),
    ("pub fn b(secret: &str) { print!(\"{secret}\"); }", Some("print_stdout")),
    ("pub fn c(secret: &str) { eprintln!(\"{secret}\"); }", Some("print_stderr")),
    ("pub fn d(secret: &str) { eprint!(\"{secret}\"); }", Some("print_stderr")),
    // In two parts, so that who looks through the sources for one that was left in does not find this.
    (concat!("pub fn e(secret: &str) -> &str { dbg", "!(secret) }"), Some("dbg_macro")),
    ("#[tracing::instrument] pub fn f(_secret: &str) {}", Some("disallowed_macros")),
    ("use tracing::instrument;", None),
    ("#[instrument] pub fn g(_secret: &str) {}", Some("disallowed_macros")),
    ("pub fn h(secret: &str) -> String { format!(\"{secret}\") }", None),
];

/// The tables of a manifest whose names begin so.
fn tables(manifest: &str, prefix: &str) -> String {
    let mut is_in = false;
    let lines = manifest.lines().filter(|line| {
        if line.starts_with('[') {
            is_in = line.starts_with(prefix);
        }
        is_in
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn clippy_refuses_each_of_them_with_the_workspaces_settings_and_nothing_else() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bans-{}", std::process::id()));
    let write = |path: &str, text: &str| {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let package = |name: &str| format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    let lints = tables(&read("Cargo.toml"), "[workspace.lints");
    write(
        "Cargo.toml",
        &format!("[workspace]\nresolver = \"3\"\nmembers = [\"sample\", \"tracing\", \"attributes\"]\n\n{lints}"),
    );
    write("clippy.toml", &read("clippy.toml"));
    let dependencies = "\n[lints]\nworkspace = true\n\n[dependencies]\ntracing = { path = \"../tracing\" }\n";
    write("sample/Cargo.toml", &(package("sample") + dependencies));
    let lines: Vec<_> = SAMPLE.iter().map(|(line, _)| *line).collect();
    write("sample/src/lib.rs", &lines.join("\n"));
    // As the real one, which gives on what another crate defines; but it is there without a network, and built at once.
    let attributes = "\n[dependencies]\nattributes = { path = \"../attributes\" }\n";
    write("tracing/Cargo.toml", &(package("tracing") + attributes));
    write("tracing/src/lib.rs", "pub use attributes::instrument;\n");
    write("attributes/Cargo.toml", &(package("attributes") + "\n[lib]\nproc-macro = true\n"));
    // Something of its own is in what it gives, or clippy would not know that it was there.
    let macro_text = "use proc_macro::TokenStream;\n#[proc_macro_attribute]\n\
        pub fn instrument(_: TokenStream, item: TokenStream) -> TokenStream {\n\
        let mut given: TokenStream = \"#[inline]\".parse().unwrap();\n given.extend(item);\n given\n}\n";
    write("attributes/src/lib.rs", macro_text);

    let mut clippy = Command::new(env!("CARGO"));
    // What runs this test has settings of its own.
    let own = |name: &str| name.starts_with("CARGO") && !matches!(name, "CARGO_HOME") || name.starts_with("RUSTFLAGS");
    for (name, _) in std::env::vars().filter(|(name, _)| own(name)) {
        clippy.env_remove(name);
    }
    clippy.env_remove("CLIPPY_CONF_DIR").env("CARGO_TARGET_DIR", folder.join("target")).current_dir(&folder);
    clippy.args(["clippy", "--offline", "--quiet", "--package", "sample", "--message-format", "json"]);
    let output = clippy.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    fs::remove_dir_all(&folder).unwrap();
    if told.contains("no such command") || told.contains("is not installed") {
        let in_ci = std::env::var_os("THEAZO_CI").is_some_and(|ci| ci == "1");
        assert!(!in_ci, "clippy is not installed, and THEAZO_CI=1 lets nothing be skipped: {told}");
        return;
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    for (index, (line, lint)) in SAMPLE.iter().enumerate() {
        let place = format!("\"line_start\":{},", index + 1);
        let errors = messages.lines().filter(|text| text.contains(&place) && text.contains("\"level\":\"error\""));
        let lints: BTreeSet<_> = errors
            .map(|text| text.split_once("\"code\":\"").unwrap().1.split('"').next().unwrap().to_owned())
            .collect();
        let expected = lint.iter().map(|lint| format!("clippy::{lint}")).collect();
        assert_eq!(lints, expected, "{line}: {told}");
    }
    assert!(!output.status.success());
}

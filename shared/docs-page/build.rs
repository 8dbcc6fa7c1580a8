//! Makes the page out of the package's archive.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use std::error::Error;
use std::io::{Cursor, Read};
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/start.js");
    let mut archive = zip::ZipArchive::new(Cursor::new(utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED))?;
    // Within a page, a script ends at the first end tag, wherever that stands.
    let viewer = file(&mut archive, "swagger-ui-bundle.js")?.replace("</script", "<\\/script");
    let style = file(&mut archive, "swagger-ui.css")?.replace("</style", "<\\/style");
    let start = std::fs::read_to_string("src/start.js")?;
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Theazo API</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <style>{style}</style>\n</head>\n<body>\n<div id=\"docs\"></div>\n<script>{viewer}</script>\n\
         <script>{start}</script>\n</body>\n</html>\n"
    );
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}' 'sha256-{}'; style-src 'unsafe-inline'; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        digest(&viewer),
        digest(&start),
    );
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("docs.html"), html)?;
    std::fs::write(Path::new(&out).join("policy.txt"), policy)?;
    Ok(())
}

/// A file of the archive, by the end of its name, with line ends as a page's parser makes them.
fn file(archive: &mut zip::ZipArchive<Cursor<&[u8]>>, name: &str) -> Result<String, Box<dyn Error>> {
    let end = format!("/{name}");
    let path = archive.file_names().find(|path| path.ends_with(&end)).map(str::to_owned);
    let path = path.ok_or_else(|| format!("the package has no {name}"))?;
    let mut text = String::new();
    archive.by_name(&path)?.read_to_string(&mut text)?;
    Ok(text.replace("\r\n", "\n"))
}

fn digest(script: &str) -> String {
    STANDARD.encode(Sha256::digest(script))
}

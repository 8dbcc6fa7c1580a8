//! The page behind `GET /docs`: Swagger UI with its script and its style in one piece, made by the build script from the
//! package that carries them. It reads `v1/openapi.json` beside it and asks nobody else for anything.

/// The page.
pub const HTML: &str = include_str!(concat!(env!("OUT_DIR"), "/docs.html"));

/// Its `Content-Security-Policy`: its own two scripts, known by their digests, and requests to where it came from.
pub const POLICY: &str = include_str!(concat!(env!("OUT_DIR"), "/policy.txt"));

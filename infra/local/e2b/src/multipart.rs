//! Uploads of several files in one body (`multipart/form-data`).

use axum::body::Bytes;
use memchr::memmem;

/// The boundary, if the content type says that it is such a body.
pub(crate) fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let parameter = parameters.split(';').find_map(|part| part.trim().strip_prefix("boundary="))?;
    Some(parameter.trim_matches('"').to_owned())
}

/// The files by their names, in order.
pub(crate) fn files(body: &Bytes, boundary: &str) -> Vec<(String, Bytes)> {
    let mark = format!("--{boundary}");
    let starts: Vec<usize> = memmem::find_iter(body, mark.as_bytes()).collect();
    let parts = starts.windows(2).filter_map(|pair| match pair {
        // A part begins after the mark's line and ends before the line break that belongs to the next mark.
        [start, next] => {
            body.get(start + mark.len() + 2..next.checked_sub(2)?).map(|part| (start + mark.len() + 2, part))
        }
        _ => None,
    });
    parts
        .filter_map(|(start, part)| {
            let head_end = memmem::find(part, b"\r\n\r\n")?;
            let head = String::from_utf8_lossy(part.get(..head_end)?).into_owned();
            let name = head.split("filename=\"").nth(1)?.split('"').next()?.to_owned();
            Some((name, body.slice(start + head_end + 4..start + part.len())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_out_byte_for_byte() {
        let body = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"/a b\"\r\n\r\none\r\n\r\n--b\r\n\
                    Content-Disposition: form-data; name=\"file\"; filename=\"c\"\r\nContent-Type: x/y\r\n\r\n\r\n--b--\r\n";
        let found = files(&Bytes::from(body), "b");
        assert_eq!(found, [("/a b".to_owned(), Bytes::from("one\r\n")), ("c".to_owned(), Bytes::new())]);
        assert_eq!(boundary("multipart/form-data; boundary=\"b\""), Some("b".to_owned()));
        assert_eq!(boundary("application/octet-stream"), None);
    }
}

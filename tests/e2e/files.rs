//! Files of an agent over the API.

use crate::harness::{Answer, Client, Platform, sha256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MIB: usize = 1024 * 1024;
/// Most bytes in one call.
const PIECE: usize = 4 * MIB;
const IN_A_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const IN_A_PATH: &AsciiSet = &IN_A_SEGMENT.remove(b'/');

/// An agent of a new platform.
struct Bed {
    client: Client,
    key: String,
    session: String,
    agent: String,
}

impl Bed {
    async fn make(name: &str) -> Self {
        let platform = Platform::make(name).await;
        let session = platform.client.session("u").await;
        let agent = platform.client.boot(&session, json!({})).await;
        Self { client: platform.client, key: platform.live_key, session, agent }
    }

    fn route(&self) -> String {
        format!("/v1/agents/{}/files", self.agent)
    }

    async fn write(&self, body: Value) -> Answer {
        match body.get("append") {
            None => self.client.insist("POST", &self.route(), Some(&body)).await,
            // What was appended may be there although the answer is lost.
            Some(_) => self.client.post(&self.route(), body).await,
        }
    }

    async fn read(&self, path_and_query: &str) -> Answer {
        self.client.insist("GET", &format!("{}/{path_and_query}", self.route()), None).await
    }

    async fn list(&self, dir: &str) -> Answer {
        let path = format!("{}?dir={}", self.route(), utf8_percent_encode(dir, IN_A_SEGMENT));
        self.client.insist("GET", &path, None).await
    }

    async fn bash(&self, code: &str) -> String {
        self.client.run(&self.agent, "bash", code).await
    }

    /// The status of a read whose path goes out as it is: a URL library resolves dots before it sends them.
    async fn read_as_written(&self, path: &str) -> u16 {
        let (base, key) = (self.client.base(), &self.key);
        let authority = base.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(authority).await.unwrap();
        let route = self.route();
        let request = format!(
            "GET {route}/{path} HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(!answer.contains("root:"), "{answer}");
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    async fn end(self) {
        self.client.terminate(&self.session).await;
    }
}

#[track_caller]
fn refused(answer: Answer, field: &str) {
    let text = answer.text.clone();
    assert_eq!(answer.expect_error(400, "invalid_request")["details"]["field"], field, "{text}");
}

#[tokio::test]
async fn text_and_bytes_are_written_read_and_replaced() {
    let bed = Bed::make("files text").await;
    let text = "line \u{fc}\u{1f980}\r\n\t\"\\ \u{2028}";
    bed.write(json!({ "path": "/data/a/b/c.txt", "data": text, "encoding": "utf-8" })).await.expect(204);
    let expected = json!({ "data": text, "encoding": "utf-8", "size": text.len() });
    for path in ["data/a/b/c.txt", "/data/a/b/c.txt", "%2Fdata%2Fa%2Fb%2Fc.txt", "data//a/./b/c.txt?encoding=utf-8"] {
        assert_eq!(bed.read(path).await.expect(200), expected, "{path}");
    }
    let encoded = bed.read("data/a/b/c.txt?encoding=base64").await.expect(200);
    assert_eq!(encoded, json!({ "data": STANDARD.encode(text), "encoding": "base64", "size": text.len() }));

    let bytes: Vec<u8> = (0..=255).collect();
    let body = json!({ "path": "data/bytes", "data": STANDARD.encode(&bytes), "encoding": "base64" });
    bed.write(body).await.expect(204);
    let expected = json!({ "data": STANDARD.encode(&bytes), "encoding": "base64", "size": 256 });
    assert_eq!(bed.read("data/bytes").await.expect(200), expected);
    // A piece that is text by itself still is.
    let piece = bed.read("data/bytes?offset=65&length=3").await.expect(200);
    assert_eq!(piece, json!({ "data": "ABC", "encoding": "utf-8", "size": 256 }));
    let past = bed.read("data/bytes?offset=256").await.expect(200);
    assert_eq!((&past["data"], &past["size"]), (&json!(""), &json!(256)));

    bed.write(json!({ "path": "/tmp/x", "data": "longer" })).await.expect(204);
    bed.write(json!({ "path": "/tmp/x", "data": "new" })).await.expect(204);
    bed.write(json!({ "path": "/tmp/x", "data": "+", "append": true })).await.expect(204);
    bed.write(json!({ "path": "/tmp/x", "data": "N", "offset": 0 })).await.expect(204);
    bed.write(json!({ "path": "/tmp/x", "data": "!", "offset": 6 })).await.expect(204);
    assert_eq!(bed.bash("cat -v /tmp/x").await, "New+^@^@!");
    bed.write(json!({ "path": "/data/empty", "data": "" })).await.expect(204);
    assert_eq!(bed.read("data/empty").await.expect(200), json!({ "data": "", "encoding": "utf-8", "size": 0 }));
    bed.end().await;
}

#[tokio::test]
async fn names_with_spaces_unicode_and_percent_signs_are_kept() {
    let bed = Bed::make("files names").await;
    for name in [
        "with space",
        "\u{fc}n\u{ef}/c\u{f6}d\u{e9} \u{1f980}",
        "a+b&c=d?e#f",
        "100%",
        "%41%2F",
        "-rf *",
        "'\"$(x)\\",
        "...",
    ] {
        let path = format!("/data/dir \u{fc}/{name}");
        bed.write(json!({ "path": path, "data": name })).await.expect(204);
        for set in [IN_A_PATH, IN_A_SEGMENT] {
            let encoded = utf8_percent_encode(path.trim_start_matches('/'), set).to_string();
            assert_eq!(bed.read(&encoded).await.expect(200)["data"], *name, "{encoded}");
        }
        let code = "import sys; print(open(sys.stdin.read()).read(), end='')";
        let body = json!({ "language": "python", "code": code, "stdin": path });
        let ran = bed.client.post(&format!("/v1/agents/{}/exec", bed.agent), body).await.expect(200);
        assert_eq!(ran["stdout"], *name, "{ran}");
    }
    let listed = bed.list("/data/dir \u{fc}").await.expect(200);
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    // `%41%2F` as a name is kept as it is; only the route's path is decoded.
    let mut expected = ["with space", "\u{fc}n\u{ef}", "a+b&c=d?e#f", "100%", "%41%2F", "-rf *", "'\"$(x)\\", "..."];
    expected.sort_unstable();
    assert_eq!(names, expected);
    bed.end().await;
}

#[tokio::test]
async fn a_listing_is_a_bare_array_and_programs_and_the_api_see_the_same_files() {
    let bed = Bed::make("files list").await;
    assert_eq!(bed.client.get(&bed.route()).await.expect(200), json!([]));
    bed.write(json!({ "path": "/data/api.txt", "data": "from the api" })).await.expect(204);
    bed.bash("printf made > made.txt; touch -d 2001-02-03T04:05:06.789Z made.txt; mkdir sub; ln -s /etc/passwd link")
        .await;
    assert_eq!(bed.bash("cat api.txt; stat -c ' %U %a' api.txt").await, "from the api agent 644\n");
    assert_eq!(bed.read("data/made.txt").await.expect(200)["data"], "made");

    let listed = bed.client.get(&bed.route()).await.expect(200);
    for dir in ["/data", "data", "/data/", "//data/."] {
        assert_eq!(listed, bed.list(dir).await.expect(200), "{dir}");
    }
    let entries = listed.as_array().unwrap();
    let names: Vec<_> = entries.iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["api.txt", "link", "made.txt", "sub"]);
    assert_eq!((&entries[0]["size"], &entries[0]["type"]), (&json!(12), &json!("file")));
    let made = json!({ "name": "made.txt", "size": 4, "modified": "2001-02-03T04:05:06.789Z", "type": "file" });
    assert_eq!(entries[2], made);
    assert_eq!(entries[3]["type"], "directory");
    assert_eq!(bed.list("/data/sub").await.expect(200), json!([]));
    for entry in entries {
        assert!(theazo_http::parse_time_ms(entry["modified"].as_str().unwrap()).is_some(), "{entry}");
    }

    bed.bash("rm api.txt").await;
    bed.read("data/api.txt").await.expect_error(404, "not_found");
    bed.read("data/never/there").await.expect_error(404, "not_found");
    bed.list("/data/never").await.expect_error(404, "not_found");
    refused(bed.list("/data/made.txt").await, "dir");
    bed.end().await;
}

/// Bytes that no encoding leaves alone by chance.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

#[tokio::test]
async fn a_file_of_64_mib_is_the_same_byte_for_byte_after_going_through_in_pieces() {
    let bed = Bed::make("files large").await;
    let bytes = noise(64 * MIB);
    let pieces: Vec<&[u8]> = bytes.chunks(PIECE).collect();
    let (by_offset, by_append) = pieces.split_at(pieces.len() / 2);
    // From the back: what lies around a piece must be kept.
    for (index, piece) in by_offset.iter().enumerate().rev() {
        let body = json!({ "path": "/data/large", "data": STANDARD.encode(piece), "encoding": "base64", "offset": index * PIECE });
        bed.write(body).await.expect(204);
    }
    for piece in by_append {
        let body =
            json!({ "path": "/data/large", "data": STANDARD.encode(piece), "encoding": "base64", "append": true });
        bed.write(body).await.expect(204);
    }
    let whole = hex::encode(Sha256::digest(&bytes));
    assert_eq!(bed.bash("sha256sum < large | cut -d' ' -f1").await.trim(), whole);

    let mut read = Sha256::new();
    for index in 0..pieces.len() {
        let path = format!("data/large?offset={}&length={PIECE}", index * PIECE);
        let piece = bed.read(&path).await.expect(200);
        assert_eq!((&piece["encoding"], &piece["size"]), (&json!("base64"), &json!(bytes.len())));
        read.update(STANDARD.decode(piece["data"].as_str().unwrap()).unwrap());
    }
    assert_eq!(hex::encode(read.finalize()), whole);

    // Without a length a call gives the first 4 MiB; one byte more is refused, in both directions.
    let first = bed.read("data/large").await.expect(200);
    assert_eq!(STANDARD.decode(first["data"].as_str().unwrap()).unwrap().len(), PIECE);
    refused(bed.read(&format!("data/large?length={}", PIECE + 1)).await, "length");
    let more = vec![b'x'; PIECE + 1];
    refused(
        bed.write(json!({ "path": "/data/more", "data": STANDARD.encode(&more), "encoding": "base64" })).await,
        "data",
    );
    refused(bed.write(json!({ "path": "/data/more", "data": String::from_utf8(more).unwrap() })).await, "data");
    bed.read("data/more").await.expect_error(404, "not_found");
    // The largest text, and one that escaping would make too long for an answer.
    for letter in ["x", "\n", "\u{1}"] {
        let text = letter.repeat(PIECE);
        bed.write(json!({ "path": "/data/text", "data": STANDARD.encode(&text), "encoding": "base64" }))
            .await
            .expect(204);
        let read = bed.read("data/text").await.expect(200);
        let data = read["data"].as_str().unwrap();
        let data = if read["encoding"] == "base64" { STANDARD.decode(data).unwrap() } else { data.into() };
        assert_eq!(hex::encode(Sha256::digest(data)), sha256(&text));
    }
    bed.end().await;
}

#[tokio::test]
async fn nothing_outside_data_and_tmp_is_reached_by_any_spelling_or_link() {
    let bed = Bed::make("files outside").await;
    bed.bash(
        "echo in > inside; mkdir sub; ln -s /etc/passwd abs; ln -s ../etc/passwd rel; ln -s /etc etc; ln -s .. up; \
         ln -s ../inside sub/fine; ln -s /proc/self/root root; ln -s loop loop; ln -s /data /tmp/data; mkfifo fifo; \
         ln -s /nowhere dangling",
    )
    .await;
    assert_eq!(bed.read("data/sub/fine").await.expect(200)["data"], "in\n");
    let outside = [
        "/etc/passwd",
        "/data/../etc/passwd",
        "/data/../../etc/passwd",
        "/data/sub/../inside",
        "/tmp/../etc/passwd",
        "/../etc/passwd",
        "/data/abs",
        "/data/rel",
        "/data/etc/passwd",
        "/data/up/etc/passwd",
        "/data/root/etc/passwd",
        "/tmp/data/inside",
        "/data/loop",
        "/data/dangling",
        "/database/x",
        "/proc/self/environ",
        "/run/agent/env",
        "/dev/zero",
        "/",
        "//etc/passwd",
        "etc/passwd",
    ];
    for path in outside {
        refused(bed.write(json!({ "path": path, "data": "x" })).await, "path");
        refused(bed.write(json!({ "path": path, "data": "x", "append": true })).await, "path");
        refused(bed.read(&utf8_percent_encode(path, IN_A_SEGMENT).to_string()).await, "path");
        refused(bed.list(path).await, "dir");
    }
    for path in [
        "data/../../etc/passwd",
        "data/%2e%2e/etc/passwd",
        "data%2F..%2Fetc%2Fpasswd",
        "data/..%2F..%2Fetc/passwd",
        "/etc/passwd",
        "%2e%2e/etc/passwd",
        "data/.%2e/etc/passwd",
    ] {
        assert_eq!(bed.read_as_written(path).await, 400, "{path}");
    }
    // Decoded once, not twice, so this is only an odd name; and the same way of sending does reach a file.
    assert_eq!(bed.read_as_written("data/%252e%252e/etc/passwd").await, 404);
    assert_eq!(bed.read_as_written("data/inside").await, 200);

    // Files of other kinds, and paths that cannot be.
    for path in ["/data", "/data/sub", "/tmp/", "/data/fifo"] {
        refused(bed.read(&utf8_percent_encode(path, IN_A_SEGMENT).to_string()).await, "path");
        refused(bed.write(json!({ "path": path, "data": "x" })).await, "path");
    }
    refused(bed.read("data/a%00b").await, "path");
    refused(bed.write(json!({ "path": "/data/a\0b", "data": "x" })).await, "path");
    refused(bed.write(json!({ "path": "/data/inside/below", "data": "x" })).await, "path");
    refused(bed.write(json!({ "path": format!("/data/{}", "x".repeat(256)), "data": "x" })).await, "path");
    refused(bed.write(json!({ "path": format!("/data/{}", "x/".repeat(2100)), "data": "x" })).await, "path");
    let state = "cat inside; ls -A | tr '\\n' ' '; ls -A /tmp | grep -v theazo";
    assert_eq!(bed.bash(state).await, "in\nabs dangling etc fifo inside loop rel root sub up data\n");
    bed.end().await;
}

#[tokio::test]
async fn bad_fields_are_refused_by_name() {
    let bed = Bed::make("files fields").await;
    for (field, body) in [
        ("path", json!({ "data": "x" })),
        ("path", json!({ "path": "", "data": "x" })),
        ("path", json!({ "path": ["/data/x"], "data": "x" })),
        ("data", json!({ "path": "/data/x" })),
        ("data", json!({ "path": "/data/x", "data": 5 })),
        ("data", json!({ "path": "/data/x", "data": "not base64!", "encoding": "base64" })),
        ("encoding", json!({ "path": "/data/x", "data": "x", "encoding": "latin-1" })),
        ("offset", json!({ "path": "/data/x", "data": "x", "offset": -1 })),
        ("offset", json!({ "path": "/data/x", "data": "x", "offset": "0" })),
        ("append", json!({ "path": "/data/x", "data": "x", "append": "yes" })),
        ("append", json!({ "path": "/data/x", "data": "x", "append": true, "offset": 1 })),
        ("body", json!([])),
    ] {
        refused(bed.write(body).await, field);
    }
    bed.write(json!({ "path": "/data/x", "data": "x" })).await.expect(204);
    for (field, query) in [
        ("offset", "offset=-1"),
        ("offset", "offset=x"),
        ("length", "length=1.5"),
        ("encoding", "encoding=hex"),
        ("query", "offset=%ff"),
    ] {
        refused(bed.read(&format!("data/x?{query}")).await, field);
    }
    assert_eq!(bed.read("data/x?length=0").await.expect(200), json!({ "data": "", "encoding": "utf-8", "size": 1 }));
    bed.client.post(&format!("/v1/agents/{}/terminate", bed.agent), json!({})).await.expect(200);
    bed.read("data/x").await.expect_error(409, "conflict");
    bed.write(json!({ "path": "/data/x", "data": "x" })).await.expect_error(409, "conflict");
    bed.list("/data").await.expect_error(409, "conflict");
    bed.end().await;
}

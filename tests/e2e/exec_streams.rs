//! Output of code while it runs: that it comes at once, that all of it together is what the answer in one piece has, and how
//! such a stream ends.

use crate::harness::{Client, EventStream, Platform, incoming, make_canary, serve_deployment, stack, with_streams};
use crate::logs::entries;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use theazo_http::StreamLimits;

/// What a stream gave.
#[derive(Debug)]
pub struct Told {
    pub stdout: String,
    pub stderr: String,
    /// How many events had output.
    pub events: usize,
    /// The result, or the error.
    pub last: Result<Value, Value>,
}

/// Asks for a stream, with `stream: true` in the body.
pub async fn open(client: &Client, agent: &str, body: &Value) -> EventStream {
    let mut body = body.clone();
    body["stream"] = true.into();
    EventStream::post(client, &format!("/v1/agents/{agent}/exec"), &body).await
}

/// Reads a stream to its end.
pub async fn rest(stream: &mut EventStream) -> Told {
    let mut told = Told { stdout: String::new(), stderr: String::new(), events: 0, last: Err(Value::Null) };
    loop {
        let event = stream.next().await.expect("an end that says so");
        let (name, data) = (event.name, event.data);
        let data: Value = if data == "[DONE]" { data.into() } else { serde_json::from_str(&data).unwrap() };
        match name.as_str() {
            "output" => {
                let (output, text) = data.as_object().unwrap().iter().next().expect("one output");
                let text = text.as_str().unwrap();
                assert!(!text.is_empty(), "an event without output");
                match output.as_str() {
                    "stdout" => told.stdout.push_str(text),
                    "stderr" => told.stderr.push_str(text),
                    other => panic!("{other}"),
                }
                told.events += 1;
            }
            "result" => told.last = Ok(data),
            "error" => told.last = Err(data),
            "message" => break assert_eq!(data, "[DONE]"),
            other => panic!("an event {other}"),
        }
    }
    assert_eq!(stream.next().await, None);
    told
}

/// Runs code and reads its stream to the end.
pub async fn tell(client: &Client, agent: &str, body: Value) -> Told {
    rest(&mut open(client, agent, &body).await).await
}

#[tokio::test]
async fn output_comes_while_code_runs_and_all_of_it_is_that_of_the_answer_in_one_piece() {
    let client = Platform::make("exec stream").await.client;
    let session = client.session("u").await;
    let canary = make_canary("exec-stream");
    client.set_secrets(&session, json!({ "token": canary })).await;
    let agent = client.boot(&session, json!({})).await;
    // The value and a character are cut in two by how they are written.
    let code = "import os, sys, time
def out(data): os.write(1, data); time.sleep(0.15)
value = os.environ['TOKEN'].encode()
out(b'begun\\n')
while not os.path.exists('/data/go'): time.sleep(0.02)
out(value[:9]); out(value[9:] + b'\\n')
out(b'\\xe2\\x82'); out(b'\\xac \\xff\\n')
os.write(2, b'bad: ' + value + b'\\n')
sys.exit(7)";
    let body = json!({ "language": "python", "code": code, "timeout": "60s" });
    let mut stream = open(&client, &agent, &body).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.name.as_str(), first.json()), ("output", json!({ "stdout": "begun\n" })));
    let go = json!({ "path": "/data/go", "data": "" });
    client.post(&format!("/v1/agents/{agent}/files"), go).await.expect(204);
    let told = rest(&mut stream).await;
    let whole = client.post(&format!("/v1/agents/{agent}/exec"), body.clone()).await.expect(200);
    assert_eq!(json!({ "stdout": format!("begun\n{}", told.stdout), "stderr": told.stderr, "exitCode": 7 }), whole);
    assert_eq!(told.stdout, "[secret:TOKEN]\n\u{20ac} \u{fffd}\n");
    assert_eq!((told.stderr.as_str(), told.last), ("bad: [secret:TOKEN]\n", Ok(json!({ "exitCode": 7 }))));

    let code = "printf '\\xff'; sleep 0.2; printf '\\x00ab'; printf e >&2";
    let bytes = json!({ "language": "bash", "code": code, "encoding": "base64" });
    let told = tell(&client, &agent, bytes).await;
    assert_eq!((STANDARD.decode(told.stdout).unwrap(), told.stderr.as_str()), (b"\xff\0ab".to_vec(), "ZQ=="));

    // The log says the same of both.
    let logged = entries(&client, &format!("agentId={agent}&search=exited%20with%207"), 2).await;
    let [streamed, whole] = [&logged[1]["metadata"], &logged[0]["metadata"]];
    for field in ["event", "language", "code", "exitCode", "stdout", "stderr"] {
        assert_eq!(streamed[field], whole[field], "{field}");
    }
    assert!(!json!(logged).to_string().contains(&canary));
    client.terminate(&session).await;
}

#[tokio::test]
async fn output_past_a_mebibyte_is_cut_in_a_stream_too_and_marked_at_its_end() {
    let client = Platform::make("exec stream cap").await.client;
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let code = "head -c 3000000 /dev/zero | tr '\\0' '\\1'; echo short >&2";
    let told = tell(&client, &agent, json!({ "language": "bash", "code": code })).await;
    // Control characters are six times as long in JSON, and the answer in one piece would have had to leave some out.
    assert!(told.stdout == "\u{1}".repeat(1024 * 1024), "{}", told.stdout.len());
    assert!(told.events > 16, "{}", told.events);
    assert_eq!(told.stderr, "short\n");
    assert_eq!(told.last, Ok(json!({ "exitCode": 0, "truncated": ["stdout"] })));
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_stream_ends_with_the_error_that_the_answer_would_have_been_and_what_is_refused_has_its_status() {
    let platform = Platform::make("exec stream errors").await;
    let session = platform.client.session("u").await;
    let agent = platform.client.boot(&session, json!({})).await;
    let heartbeat = Duration::from_millis(100);
    let limits = StreamLimits { heartbeat, silence: Duration::from_millis(1), ..StreamLimits::default() };
    let client = Client::new(serve_deployment(with_streams(stack(), limits)).await, Some(&platform.live_key));
    let slow = json!({ "language": "bash", "code": "echo partial; sleep 60", "timeout": "1501ms" });
    let mut stream = open(&client, &agent, &slow).await;
    let told = rest(&mut stream).await;
    assert_eq!((told.stdout.as_str(), told.stderr.as_str()), ("partial\n", ""));
    let error = told.last.unwrap_err();
    assert_eq!((&error["error"]["code"], &error["error"]["details"]["timeoutMs"]), (&json!("timeout"), &json!(1501)));
    assert!(error["error"]["requestId"].as_str().is_some_and(|id| id.starts_with("req_")), "{error}");
    assert!(stream.comments >= 5, "{}", stream.comments);
    entries(&client, &format!("agentId={agent}&level=error&search=timeout"), 1).await;
    // What failed so is not run again for a minute, as after a status that says so.
    let mut again = slow.clone();
    again["stream"] = true.into();
    let repeated = client.post(&format!("/v1/agents/{agent}/exec"), again).await.expect_error(504, "timeout");
    assert_eq!(repeated["details"]["timeoutMs"], 1501);

    let path = format!("/v1/agents/{agent}/exec");
    let ask = |stream: Value| json!({ "language": "bash", "code": "echo x", "stream": stream });
    client.post(&path, ask(json!("yes"))).await.expect_error(400, "invalid_request");
    for no in [json!(false), json!(null)] {
        assert_eq!(client.post(&path, ask(no)).await.expect(200)["stdout"], "x\n");
    }
    let stranger = Platform::make("exec stream stranger").await.client;
    stranger.post(&path, ask(json!(true))).await.expect_error(404, "not_found");
    client.call("POST", &format!("/v1/agents/{agent}/pause"), None).await.expect(200);
    client.post(&path, ask(json!(true))).await.expect_error(409, "conflict");
    client.terminate(&session).await;
}

#[tokio::test]
async fn code_runs_on_when_the_reader_of_its_stream_has_gone() {
    let client = Platform::make("exec stream left").await.client;
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let code = "echo begun; sleep 1; echo done > /data/done; exit 5";
    let mut stream = open(&client, &agent, &json!({ "language": "bash", "code": code })).await;
    assert_eq!(stream.next().await.unwrap().json()["stdout"], "begun\n");
    drop(stream);
    let until = Instant::now() + Duration::from_secs(20);
    while client.get(&format!("/v1/agents/{agent}/files/data/done")).await.status != 200 {
        assert!(Instant::now() < until, "it did not run on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    entries(&client, &format!("agentId={agent}&search=exited%20with%205"), 1).await;
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_function_may_not_be_frozen_before_code_has_ended_whose_reader_has_gone() {
    let platform = Platform::make("exec stream frozen").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let limits = StreamLimits { silence: Duration::from_millis(1), ..StreamLimits::default() };
    let path = format!("/v1/agents/{agent}/exec");
    for (number, streams) in [true, false].into_iter().enumerate() {
        let deployment = with_streams(stack(), limits);
        let code = format!("sleep 1; echo {number} >> /data/ended; exit 6");
        let body = json!({ "language": "bash", "code": code, "stream": streams });
        let asked = incoming("POST", &path, client.key(), &body);
        let (answer, _) = theazo_functions::serve(&deployment, theazo_functions::routes::ROUTES, asked).await;
        assert_eq!(answer.status(), 200);
        // Nobody has read of it; a runtime that has given it away asks for the next event.
        drop(answer);
        deployment.log_queue().flushed().await;
        let ended = client.get(&format!("/v1/agents/{agent}/files/data/ended")).await.expect(200)["data"].clone();
        assert_eq!(ended.as_str().unwrap().lines().count(), number + 1);
        let logged = client.get(&format!("/v1/logs?agentId={agent}&search=exited%20with%206")).await.expect(200);
        assert_eq!(logged["data"].as_array().unwrap().len(), number + 1, "{logged}");
    }
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_session_and_a_test_key_are_told_output_too() {
    let platform = Platform::make("exec stream callers").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let own = crate::logs::token(&client, &session).await;
    let code = "# theazo:stdout one\n# theazo:stderr two\n# theazo:exit 3";
    for caller in [&client, &own] {
        let told = tell(caller, &agent, json!({ "language": "python", "code": code })).await;
        assert_eq!(
            (told.stdout.as_str(), told.stderr.as_str(), told.last),
            ("one\n", "two\n", Ok(json!({ "exitCode": 3 })))
        );
    }
    client.terminate(&session).await;
}

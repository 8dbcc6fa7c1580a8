//! Running code, as the contract's exec row says it.

use crate::harness::{Answer, Client, Platform, container_name, docker, serve_deployment, sha256, stack, with_streams};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;
use theazo_http::StreamLimits;

const MIB: usize = 1024 * 1024;

/// An agent of a new platform.
struct Bed {
    client: Client,
    session: String,
    agent: String,
}

impl Bed {
    async fn make(name: &str) -> Self {
        let client = Platform::make(name).await.client;
        let session = client.session("u").await;
        let agent = client.boot(&session, json!({})).await;
        Self { client, session, agent }
    }

    async fn exec(&self, body: Value) -> Answer {
        self.client.post(&format!("/v1/agents/{}/exec", self.agent), body).await
    }

    async fn run(&self, language: &str, code: &str) -> Value {
        self.exec(json!({ "language": language, "code": code })).await.expect(200)
    }

    async fn end(self) {
        self.client.terminate(&self.session).await;
    }
}

#[tokio::test]
async fn streams_come_apart_and_exit_codes_and_signals_are_results() {
    let bed = Bed::make("exec results").await;
    for (language, code) in [
        ("python", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"),
        ("node", "console.log('out'); console.error('err'); process.exit(7)"),
        ("bash", "echo out; echo err >&2; exit 7"),
    ] {
        let ran = bed.run(language, code).await;
        assert_eq!(ran, json!({ "stdout": "out\n", "stderr": "err\n", "exitCode": 7 }), "{language}");
    }
    for (language, code, exit) in [
        ("bash", "true", 0),
        ("bash", "exit 255", 255),
        ("bash", "kill -TERM $$", 143),
        ("python", "import os; os.kill(os.getpid(), 9)", 137),
        ("node", "process.kill(process.pid, 'SIGKILL'); setTimeout(() => {}, 60000)", 137),
        ("python", "syntax error", 1),
        ("node", "throw new Error('x')", 1),
        ("bash", "no-such-program", 127),
    ] {
        assert_eq!(bed.run(language, code).await["exitCode"], exit, "{language}: {code}");
    }
    bed.end().await;
}

#[tokio::test]
async fn input_arrives_whole_and_without_input_there_is_its_end() {
    let bed = Bed::make("exec stdin").await;
    let text = "line \u{fc}\u{1f980}\0\n\"quoted\"\r\n";
    let ran = bed.exec(json!({ "language": "bash", "code": "cat", "stdin": text })).await.expect(200);
    assert_eq!((ran["stdout"].as_str(), ran["exitCode"].as_i64()), (Some(text), Some(0)));
    let large = "0123456789abcde\n".repeat(MIB / 8);
    let code = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), end='')";
    let ran = bed.exec(json!({ "language": "python", "code": code, "stdin": large })).await.expect(200);
    assert_eq!(ran["stdout"], sha256(&large));
    let unread = bed.exec(json!({ "language": "bash", "code": "echo done", "stdin": large })).await.expect(200);
    assert_eq!((unread["stdout"].as_str(), unread["exitCode"].as_i64()), (Some("done\n"), Some(0)));
    let none = bed.exec(json!({ "language": "bash", "code": "cat; echo end", "timeout": "60s" })).await.expect(200);
    assert_eq!(none["stdout"], "end\n");
    bed.end().await;
}

#[tokio::test]
async fn text_stays_and_bytes_are_replaced_or_encoded() {
    let bed = Bed::make("exec bytes").await;
    let text = "\u{fc} \u{1f980} \u{2028} \u{202e} \u{0} \u{7f} \u{feff} e\u{301} \\ \" \u{ffff}";
    let ran =
        bed.exec(json!({ "language": "bash", "code": "cat; cat <<< '\u{fc}\u{1f980}' >&2", "stdin": text })).await;
    let ran = ran.expect(200);
    assert_eq!((ran["stdout"].as_str(), ran["stderr"].as_str()), (Some(text), Some("\u{fc}\u{1f980}\n")));

    let bytes: Vec<u8> = (0..=255).collect();
    let code = "import sys; sys.stdout.buffer.write(bytes(range(256))); sys.stderr.buffer.write(b'\\xff\\x00')";
    let lossy = bed.run("python", code).await;
    assert_eq!(lossy["stdout"].as_str().unwrap(), String::from_utf8_lossy(&bytes));
    assert_eq!(lossy["stderr"], "\u{fffd}\0");
    let exact = bed.exec(json!({ "language": "python", "code": code, "encoding": "base64" })).await.expect(200);
    assert_eq!(STANDARD.decode(exact["stdout"].as_str().unwrap()).unwrap(), bytes);
    assert_eq!(STANDARD.decode(exact["stderr"].as_str().unwrap()).unwrap(), b"\xff\0");
    bed.end().await;
}

#[tokio::test]
async fn output_past_a_mebibyte_a_stream_is_cut_and_marked() {
    let bed = Bed::make("exec cap").await;
    let code = |out: usize, err: usize| {
        format!("import sys; sys.stdout.write('a' * {out} + 'z'); sys.stderr.write('b' * {err} + 'z')")
    };
    for (out, err, truncated) in [
        (MIB - 1, MIB - 1, Value::Null),
        (MIB, 0, json!(["stdout"])),
        (0, MIB, json!(["stderr"])),
        (3 * MIB, 2 * MIB, json!(["stdout", "stderr"])),
    ] {
        let ran = bed.run("python", &code(out, err)).await;
        assert_eq!((&ran["truncated"], &ran["exitCode"]), (&truncated, &json!(0)), "{out} {err}");
        for (stream, letter, length) in [("stdout", "a", out), ("stderr", "b", err)] {
            let kept = ran[stream].as_str().unwrap();
            let whole = letter.repeat(length) + "z";
            assert_eq!(kept.len(), whole.len().min(MIB), "{stream}");
            assert!(whole.starts_with(kept), "{stream}");
        }
    }
    // A program that never stops writing ends at its time limit and is no danger to the stack.
    let endless = bed.exec(json!({ "language": "bash", "code": "yes", "timeout": "2s" })).await;
    endless.expect_error(504, "timeout");
    assert_eq!(bed.run("bash", "echo ok").await["stdout"], "ok\n");
    bed.end().await;
}

#[tokio::test]
async fn code_runs_in_data_which_stays_as_a_user_without_rights() {
    let bed = Bed::make("exec place").await;
    let place = "import os; print(os.getcwd(), os.environ['HOME'], end='')";
    assert_eq!(bed.run("python", place).await["stdout"], "/data /data");
    assert_eq!(bed.run("bash", "pwd; echo kept > here; mkdir -p sub").await["stdout"], "/data\n");
    assert_eq!(
        bed.run("node", "process.stdout.write(require('fs').readFileSync('here', 'utf8'))").await["stdout"],
        "kept\n"
    );
    assert_eq!(bed.run("python", "print(open('/data/here').read(), end='')").await["stdout"], "kept\n");

    let who = "import os, re; status = open('/proc/self/status').read()\n\
        print(os.getuid(), os.geteuid(), os.getgid(), os.getgroups(),\n\
              re.findall(r'Cap(?:Inh|Prm|Eff|Bnd|Amb):\\s*0*(\\S+)', status), re.findall(r'NoNewPrivs:\\s*(\\d)', status))";
    let ran = bed.run("python", who).await;
    assert_eq!(ran["stdout"], "10001 10001 10001 [10001] ['0', '0', '0', '0', '0'] ['1']\n");
    for forbidden in ["echo x > /etc/passwd", "touch /usr/bin/x", "echo x > /run/agent/env", "kill 1"] {
        assert_ne!(bed.run("bash", forbidden).await["exitCode"], 0, "{forbidden}");
    }
    bed.end().await;
}

const FAMILY: &str = "
import os, time
def note():
    with open('/data/family', 'a') as f: f.write(f'{os.getpid()}\\n')
note()
if os.fork() == 0:
    os.setsid()
    note()
    if os.fork() == 0:
        os.setsid()
        note()
        for fd in range(3): os.close(fd)
        open('/data/grown', 'w').close()
        time.sleep(600)
    os._exit(0)
time.sleep(600)
";

#[tokio::test]
async fn a_timeout_is_a_504_and_leaves_no_process_of_the_tree() {
    let bed = Bed::make("exec timeout").await;
    let looking = "import os; pids = open('/data/family').read().split()\n\
        print(len(pids), os.path.exists('/data/grown'), [p for p in pids if os.path.exists('/proc/' + p)])";
    // While it runs, all of it is there; a test that could not see the family could not see it leave.
    let running = bed.exec(json!({ "language": "python", "code": FAMILY, "timeout": "20s" }));
    let watching = async {
        for _ in 0..100 {
            let seen =
                bed.run("bash", "[ -e /data/grown ] && for p in $(cat /data/family); do echo /proc/$p; done").await;
            let seen = seen["stdout"].as_str().unwrap().lines().count();
            if seen == 3 {
                return bed.run("python", looking).await["stdout"].as_str().unwrap().to_owned();
            }
        }
        panic!("the family never grew");
    };
    let (ended, seen) = tokio::join!(running, watching);
    assert!(seen.starts_with("3 True ['") && seen.matches(',').count() == 2, "{seen}");
    let error = ended.expect_error(504, "timeout");
    assert_eq!(error["details"], json!({ "timeoutMs": 20_000 }));
    assert_eq!(bed.run("python", looking).await["stdout"], "3 True []\n");
    assert_eq!(bed.client.get(&format!("/v1/agents/{}", bed.agent)).await.expect(200)["status"], "ready");

    // What a program leaves behind when it ends by itself goes too.
    let left = "(setsid sleep 600 & echo $! > /data/left); exit 0";
    assert_eq!(bed.run("bash", left).await["exitCode"], 0);
    assert_eq!(bed.run("bash", "[ -e /proc/$(cat /data/left) ] && echo there || echo gone").await["stdout"], "gone\n");
    bed.end().await;
}

#[tokio::test]
async fn a_timeout_is_written_in_words_or_milliseconds_up_to_ten_minutes() {
    let bed = Bed::make("exec timeout forms").await;
    for (timeout, ms) in [(json!("2s"), 2000), (json!(1500), 1500)] {
        let body = json!({ "language": "bash", "code": "sleep 100", "timeout": timeout });
        assert_eq!(bed.exec(body).await.expect_error(504, "timeout")["details"]["timeoutMs"], ms);
    }
    for good in [json!("10m"), json!(600_000), Value::Null] {
        let body = json!({ "language": "bash", "code": "echo ok", "timeout": good });
        assert_eq!(bed.exec(body).await.expect(200)["stdout"], "ok\n");
    }
    for bad in [json!("11m"), json!(600_001), json!("601s"), json!(0), json!(-1), json!("soon"), json!(true), json!({})]
    {
        let body = json!({ "language": "bash", "code": "true", "timeout": bad });
        assert_eq!(bed.exec(body).await.expect_error(400, "invalid_request")["details"]["field"], "timeout", "{bad}");
    }
    bed.end().await;
}

#[tokio::test]
async fn twenty_at_once_each_get_their_own_answer() {
    let bed = Bed::make("exec crowd").await;
    let languages = ["python", "bash", "node", "bash"];
    let runs = (0..20).map(|index| {
        let language = languages[index % languages.len()];
        let code = match language {
            "python" => format!("import sys, time; time.sleep(1); print({index}, sys.stdin.read())"),
            "node" => format!("console.log({index}, require('fs').readFileSync(0, 'utf8'))"),
            _ => format!("sleep 1; echo {index} $(cat)"),
        };
        bed.exec(json!({ "language": language, "code": code, "stdin": format!("in-{index}") }))
    });
    for (index, ran) in join_all(runs).await.into_iter().enumerate() {
        let ran = ran.expect(200);
        assert_eq!((ran["stdout"].as_str(), &ran["exitCode"]), (Some(&*format!("{index} in-{index}\n")), &json!(0)));
    }
    bed.end().await;
}

#[tokio::test]
async fn large_and_odd_code_travels_as_a_file() {
    let bed = Bed::make("exec code").await;
    let filler = "x".repeat(900 * 1000);
    for (language, code) in [
        ("python", format!("s = '{filler}'\nprint(len(s), len(open('/proc/self/cmdline').read()) < 200)")),
        (
            "node",
            format!(
                "const s = '{filler}'\nconsole.log(s.length, require('fs').readFileSync('/proc/self/cmdline').length < 200)"
            ),
        ),
        ("bash", format!("s='{filler}'\necho ${{#s}} $([ $(wc -c < /proc/$$/cmdline) -lt 200 ] && echo true)")),
    ] {
        let ran = bed.run(language, &code).await;
        assert_eq!(ran["stdout"].as_str().unwrap().to_lowercase(), "900000 true\n", "{language}");
    }
    let odd = "\u{fc}\u{1f980}\u{2028}\u{202e}e\u{301}$`!";
    let ran = bed.run("python", &format!("# \u{feff}\nprint('''{odd}''', end='')")).await;
    assert_eq!(ran["stdout"], odd, "{ran}");
    let ran = bed.run("node", "process.stdout.write(String('a\0b'.length) + '\u{1f980}'.length)").await;
    assert_eq!(ran["stdout"], "32", "{ran}");
    // What interpreters make of a NUL differs; it must only get there.
    for language in ["python", "bash"] {
        assert!(bed.run(language, "\0").await["exitCode"].is_i64());
    }
    assert_eq!(bed.run("bash", "").await, json!({ "stdout": "", "stderr": "", "exitCode": 0 }));
    // The file is private to the call and gone after it.
    let files = bed.run("bash", "ls -A /tmp | wc -l; stat -c %a \"$0\" \"$(dirname \"$0\")\"").await;
    assert_eq!(files["stdout"], "1\n600\n700\n");
    bed.end().await;
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_by_the_name_of_its_field() {
    let bed = Bed::make("exec refusals").await;
    let error = bed.exec(json!({ "language": "go", "code": "package main" })).await;
    assert_eq!(error.expect_error(422, "unprocessable_entity")["details"]["feature"], "language.go");
    let long = "x".repeat(MIB + 1);
    for (field, body) in [
        ("language", json!({ "code": "true" })),
        ("language", json!({ "language": "perl", "code": "1" })),
        ("language", json!({ "language": "Python", "code": "1" })),
        ("language", json!({ "language": ["bash"], "code": "1" })),
        ("code", json!({ "language": "bash" })),
        ("code", json!({ "language": "bash", "code": null })),
        ("code", json!({ "language": "bash", "code": 5 })),
        ("code", json!({ "language": "bash", "code": long })),
        ("stdin", json!({ "language": "bash", "code": "cat", "stdin": ["x"] })),
        ("stdin", json!({ "language": "bash", "code": "cat", "stdin": "x".repeat(4 * MIB + 1) })),
        ("encoding", json!({ "language": "bash", "code": "true", "encoding": "latin-1" })),
        ("encoding", json!({ "language": "bash", "code": "true", "encoding": 8 })),
        ("body", json!([])),
        ("body", json!("bash")),
    ] {
        let error = bed.exec(body).await.expect_error(400, "invalid_request");
        assert_eq!(error["details"]["field"], field, "{error}");
    }
    let path = format!("/v1/agents/{}/exec", bed.agent);
    for raw in ["", "{", "{\"language\": \"bash\", \"code\": \"\\ud800\"}", "{\"language\": \"bash\"} x"] {
        let answer = bed.client.try_call("POST", &path, Some(raw.as_bytes().to_vec())).await.unwrap();
        assert_eq!(answer.expect_error(400, "invalid_request")["details"]["field"], "body", "{raw}");
    }
    let ignored = json!({ "language": "bash", "code": "echo ok", "unknown": { "x": 1 }, "encoding": null });
    let path = format!("/v1/agents/{}/exec", bed.agent);
    assert_eq!(bed.client.saying_more().post(&path, ignored).await.expect(200)["stdout"], "ok\n");

    let ended = bed.client.post(&format!("/v1/agents/{}/terminate", bed.agent), json!({})).await.expect(200);
    assert_eq!(ended["status"], "completed");
    let error = bed.exec(json!({ "language": "bash", "code": "true" })).await.expect_error(409, "conflict");
    assert_eq!(error["details"]["status"], "completed");
    bed.end().await;
}

#[tokio::test]
async fn an_agent_whose_container_was_killed_fails_and_gives_its_place_back() {
    let client = Platform::make("exec killed").await.client;
    let body = json!({ "userId": "u", "limits": { "maxAgents": 1 } });
    let session = client.post("/v1/sessions", body).await.expect(201)["id"].as_str().unwrap().to_owned();
    let agent = client.boot(&session, json!({})).await;
    let bed = Bed { client, session, agent };
    let agents = format!("/v1/sessions/{}/agents", bed.session);
    bed.client.post(&agents, json!({})).await.expect_error(402, "session_limit_exceeded");

    let docker = docker().await;
    docker.kill_container(&container_name(&bed.agent), None).await.unwrap();
    let error = bed.exec(json!({ "language": "bash", "code": "true" })).await.expect_error(502, "provider_error");
    assert_eq!(error["details"], json!({ "provider": "docker", "status": null, "retryable": false }));
    let shown = bed.client.get(&format!("/v1/agents/{}", bed.agent)).await.expect(200);
    assert_eq!(shown["status"], "failed");
    let name = container_name(&bed.agent);
    assert!(docker.inspect_container(&name, None).await.is_err(), "its container is left");
    assert!(docker.inspect_network(&name, None).await.is_err(), "its network is left");
    assert!(docker.inspect_volume(&name).await.is_err(), "its volume is left");
    let again = bed.exec(json!({ "language": "bash", "code": "true # again" })).await.expect_error(409, "conflict");
    assert_eq!(again["details"]["status"], "failed");

    let next = bed.client.boot(&bed.session, json!({})).await;
    assert_eq!(bed.client.run(&next, "bash", "echo ok").await, "ok\n");
    bed.end().await;
}

#[tokio::test]
async fn an_exec_that_ended_in_a_5xx_is_answered_again_and_does_not_run_again() {
    let platform = Platform::make("exec replay").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let path = format!("/v1/agents/{agent}/exec");
    let body = json!({ "language": "bash", "code": "echo ran >> /data/runs; sleep 60", "timeout": "1s" });
    for _ in 0..3 {
        let error = client.post(&path, body.clone()).await.expect_error(504, "timeout");
        assert_eq!(error["details"]["timeoutMs"], 1000);
    }
    assert_eq!(client.run(&agent, "bash", "cat /data/runs").await, "ran\n");
    // Another body is another request, and an answer that was no 5xx is never given again.
    let other = json!({ "language": "bash", "code": "echo ran >> /data/runs; sleep 60", "timeout": "1001ms" });
    client.post(&path, other).await.expect_error(504, "timeout");
    let count = json!({ "language": "bash", "code": "echo ran >> /data/runs; wc -l < /data/runs; exit 3" });
    for lines in ["3\n", "4\n"] {
        let ran = client.post(&path, count.clone()).await.expect(200);
        assert_eq!((&ran["stdout"], &ran["exitCode"]), (&json!(lines), &json!(3)));
    }
    client.terminate(&session).await;
}

#[tokio::test]
async fn code_that_runs_long_has_its_connection_kept_alive_and_answers_all_the_same() {
    let platform = Platform::make("long exec").await;
    let session = platform.client.session("u").await;
    let agent = platform.client.boot(&session, json!({})).await;
    let (silence, heartbeat) = (Duration::from_millis(300), Duration::from_millis(200));
    let limits = StreamLimits { silence, heartbeat, ..StreamLimits::default() };
    let client = Client::new(serve_deployment(with_streams(stack(), limits)).await, Some(&platform.live_key));
    let path = format!("/v1/agents/{agent}/exec");
    let slow = client.post(&path, json!({ "language": "bash", "code": "sleep 1.5; echo done; exit 4" })).await;
    assert!(slow.text.starts_with("   "), "{slow:?}");
    assert_eq!(slow.headers["content-type"], "application/json");
    let shown = slow.expect(200);
    assert_eq!((&shown["stdout"], &shown["exitCode"]), (&json!("done\n"), &json!(4)));
    // The status is gone by then: the failure is in the body.
    let late = client.post(&path, json!({ "language": "bash", "code": "sleep 9", "timeout": "1s" })).await;
    assert!(late.text.starts_with(' '));
    let late = late.expect(200);
    assert_eq!((&late["error"]["code"], &late["error"]["requestId"]), (&json!("timeout"), &late["requestId"]));
    // It arrives while the code runs, which goes on once it has.
    let code = "while [ ! -e /data/go ]; do sleep 0.05; done; echo gone on";
    let mut answer = client.open_post(&path, &json!({ "language": "bash", "code": code })).await;
    let first = answer.chunk().await.unwrap().expect("white space");
    assert!(!first.is_empty() && first.iter().all(|byte| *byte == b' '), "{first:?}");
    client.post(&format!("/v1/agents/{agent}/files"), json!({ "path": "/data/go", "data": "" })).await.expect(204);
    let rest: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(rest["stdout"], "gone on\n", "{rest}");
    // Within the usual limit there is no white space.
    let quick = platform.client.post(&path, json!({ "language": "bash", "code": "echo quick" })).await;
    assert!(quick.text.starts_with('{'), "{quick:?}");
    client.post(&path, json!({ "language": "cobol", "code": "" })).await.expect_error(400, "invalid_request");
    platform.client.terminate(&session).await;
}

//! What only Fly has of ports: they end with a boot of the machine, behind a proxy that takes orders from answers.

use crate::bed::{Bed, FLY_TOKEN, environment};
use crate::fly::{alter, app, fault, machine, manage};
use crate::ports::{ask, lines, open, refusal, serve, token};
use serde_json::json;
use std::time::{Duration, Instant};
use theazo_providers::{Language, Provider, ProviderError};

/// Answers once on a port of its choice what its argument says, and tells the port.
const ANSWER_ONCE: &str = r"
import os, socket, sys
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
if os.fork(): os._exit(0)
os.setsid()
for stream in (0, 1, 2): os.dup2(os.open('/dev/null', os.O_RDWR), stream)
connection, _ = listener.accept()
connection.recv(65536)
connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Own: kept\r\nHEADERS\r\n\r\nbody')
connection.close()
";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_port_dies_with_the_boot_and_strangers_are_refused_before_and_after() {
    let bed = Bed::fly("port-boots").await;
    let (spec, agent) = bed.create(&[]).await;
    let port = serve(&bed, &agent, "first").await;
    let first = open(&bed, &agent, port).await;
    assert!(ask(&first, &lines(&first)).await.contains("told to first"));
    let served = bed.fly_emulator();
    let other = served.provider(&served.deployment, FLY_TOKEN).open_port(&agent, port).await.unwrap();
    assert_eq!((&other.url, token(&other)), (&first.url, token(&first)), "another process tells the same");
    let stranger = format!("theazo-port-token: {}\r\n", "0".repeat(64));
    assert!(ask(&first, &stranger).await.starts_with("HTTP/1.1 401"));
    assert!(ask(&first, "").await.starts_with("HTTP/1.1 401"));
    let api = |record: &theazo_fly_emulator::Record| record.kind == "api" || record.subject.ends_with(":7443");
    let kept: Vec<_> = served.controls.records().into_iter().filter(api).collect();
    assert!(!serde_json::to_string(&kept).unwrap().contains(token(&first)), "no call to Fly has the token");

    bed.provider.stop(&agent).await.unwrap();
    assert!(ask(&first, &lines(&first)).await.starts_with("HTTP/1.1 502"));
    bed.provider.resume(&spec, &environment(&[])).await.unwrap();
    assert!(ask(&first, &lines(&first)).await.starts_with("HTTP/1.1 401"), "the new boot has opened nothing");
    let second = open(&bed, &agent, port).await;
    assert_eq!(second.url, first.url);
    assert_ne!(token(&second), token(&first));
    assert!(ask(&first, &lines(&first)).await.starts_with("HTTP/1.1 401"), "what it opened has another token");
    // Nobody listens there now.
    assert!(ask(&second, &lines(&second)).await.starts_with("HTTP/1.1 502"));

    // The machine restarts behind our back: nothing was delivered to it, and nothing is opened.
    served.controls.crash(&app(&agent));
    let path = format!("/apps/{}/machines/{}", app(&agent), machine(&bed, &agent).await["id"].as_str().unwrap());
    let until = Instant::now() + Duration::from_secs(10);
    while machine(&bed, &agent).await["state"] != "stopped" {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(refusal(&bed, &agent, port).await, ProviderError::SandboxGone));
    manage(&bed, reqwest::Method::POST, &format!("{path}/start"), json!({})).await;
    manage(&bed, reqwest::Method::GET, &format!("{path}/wait?state=started&timeout=10"), json!({})).await;
    assert!(matches!(refusal(&bed, &agent, port).await, ProviderError::SandboxGone));
    assert!(ask(&second, &lines(&second)).await.starts_with("HTTP/1.1 401"));
    bed.destroy(&agent).await;
    assert_eq!(bed.left().await, [""; 0]);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_ports_are_few_and_none_of_them_is_the_machines_own() {
    let bed = Bed::fly("port-limits").await;
    let (spec, agent) = bed.create(&[("A", "b")]).await;
    for own in [7443, 80] {
        let refused = refusal(&bed, &agent, own).await;
        assert!(matches!(refused, ProviderError::PortUnusable(_)), "{refused}");
    }
    // The agent cannot take the place of the forwarder, is a stranger to it like all others, and cannot end it.
    let tries = "import socket, urllib.request, urllib.error
for host in ('0.0.0.0', '127.0.0.1'):
    try: socket.create_server((host, 80)); print('taken')
    except OSError as error: print(error.errno)
try: urllib.request.urlopen('http://127.0.0.1/')
except urllib.error.HTTPError as error: print(error.code)";
    assert_eq!(bed.run(&agent, Language::Python, tries).await.stdout, "13\n13\n401\n");
    bed.run(&agent, Language::Bash, "kill -9 $(pgrep -x theazo-machine || pidof theazo-machine)").await;
    let port = serve(&bed, &agent, "one").await;
    let way = open(&bed, &agent, port).await;
    assert!(ask(&way, &lines(&way)).await.contains("told to one"));
    for port in 3000..3007 {
        open(&bed, &agent, port).await;
    }
    let refused = refusal(&bed, &agent, 3007).await;
    assert!(matches!(refused, ProviderError::TooManyPorts { most: 8 }), "{refused}");
    assert_eq!(token(&open(&bed, &agent, port).await), token(&way), "one that is open is still told");
    assert!(ask(&way, &lines(&way)).await.contains("told to one"));
    // One that was ended comes back, with all that is open.
    let end = "grep -l '^Uid:.10002' /proc/[0-9]*/status | cut -d/ -f3 | xargs kill -9";
    let path = format!("/apps/{}/machines/{}/exec", app(&agent), machine(&bed, &agent).await["id"].as_str().unwrap());
    let ended = manage(&bed, reqwest::Method::POST, &path, json!({ "command": ["bash", "-c", end] })).await;
    assert_eq!(ended["exit_code"], json!(null), "{ended}");
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        // One that is just ending may have taken a request.
        let answer = ask(&way, &lines(&way)).await;
        if answer.contains("told to one") {
            break;
        }
        assert!(answer.starts_with("HTTP/1.1 502") && Instant::now() < until, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What is delivered begins anew, also where the machine goes on.
    bed.provider.create(&spec, &environment(&[("A", "c")])).await.unwrap();
    assert!(ask(&way, &lines(&way)).await.starts_with("HTTP/1.1 401"));
    open(&bed, &agent, 3007).await;
    bed.destroy(&agent).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_behind_a_port_gives_flys_proxy_no_orders() {
    let bed = Bed::fly("port-orders").await;
    let (_, agent) = bed.create(&[]).await;
    let answer = async |headers: &str| {
        let code = ANSWER_ONCE.replace("HEADERS", headers);
        let port = bed.run(&agent, Language::Python, &code).await.stdout;
        let port = String::from_utf8_lossy(&port).trim().parse().unwrap();
        let way = open(&bed, &agent, port).await;
        ask(&way, &lines(&way)).await
    };
    let plain = answer("Fly-Replay: app=other;state=x").await;
    assert!(plain.starts_with("HTTP/1.1 200") && plain.ends_with("body"), "{plain}");
    assert!(plain.to_lowercase().contains("x-own: kept") && !plain.to_lowercase().contains("replay"), "{plain}");
    let order = answer("Content-Type: application/vnd.fly.replay+json").await;
    assert!(order.starts_with("HTTP/1.1 502") && order.contains("bad_answer"), "{order}");
    bed.destroy(&agent).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_from_before_there_were_ports_says_that_it_has_none() {
    let bed = Bed::fly("port-none").await;
    let (_, agent) = bed.create(&[]).await;
    let served = bed.fly_emulator();
    let first = machine(&bed, &agent).await["config"]["services"][0].clone();
    fault(&bed, "GET", "/machines", 1, alter("/0/config/services", json!([first])));
    let old = served.provider(&served.deployment, FLY_TOKEN).open_port(&agent, 3000).await.err().unwrap();
    assert!(matches!(old, ProviderError::NoPorts), "{old}");
    // One whose host does not answer does not say what it has.
    fault(&bed, "GET", "/machines", 1, alter("/0/config", json!(null)));
    assert!(served.provider(&served.deployment, FLY_TOKEN).open_port(&agent, 3000).await.is_ok());
    bed.provider.destroy(&agent).await.unwrap();
    let gone = served.provider(&served.deployment, FLY_TOKEN).open_port(&agent, 3000).await.err().unwrap();
    assert!(matches!(gone, ProviderError::SandboxGone), "{gone}");
    bed.end().await;
}

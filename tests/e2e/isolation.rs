//! What one platform, session, agent or mode can learn of another: nothing. What it can call is in `matrix`.

use crate::harness::{Answer, Canary, Client, Platform, container_name, docker, sha256};
use serde_json::json;
use std::time::Duration;

/// A platform with a session, a secret and, if wanted, an agent.
struct Tenant {
    platform: Platform,
    session: String,
}

impl Tenant {
    async fn make(name: &str, with_agent: bool) -> Self {
        let platform = Platform::make(name).await;
        let client = &platform.client;
        let session = client.session("same user").await;
        client.set_secrets(&session, json!({ "OWN": format!("value of {name}") })).await;
        client.post("/v1/secrets", json!({ "SHARED": format!("shared of {name}") })).await.expect(204);
        if with_agent {
            client.boot(&session, json!({})).await;
        }
        Self { platform, session }
    }

    fn client(&self) -> &Client {
        &self.platform.client
    }
}

#[tokio::test]
async fn one_platforms_cursors_say_nothing_to_another_nor_to_its_own_other_mode() {
    let (owner, stranger) = tokio::join!(Tenant::make("cursors", false), Tenant::make("stranger", false));
    owner.client().post("/v1/sessions", json!({})).await.expect(201);
    let page = owner.client().get("/v1/sessions?limit=1").await.expect(200);
    let next = format!("/v1/sessions?limit=1&cursor={}", page["cursor"].as_str().unwrap());
    owner.client().get(&next).await.expect(200);
    stranger.client().get(&next).await.expect_error(400, "invalid_request");
    owner.client().with_key(Some(&owner.platform.test_key)).get(&next).await.expect_error(400, "invalid_request");
}

#[tokio::test]
async fn live_and_test_keys_of_one_platform_do_not_see_each_others_data() {
    let tenant = Tenant::make("modes", true).await;
    let live = tenant.client();
    let test = live.with_key(Some(&tenant.platform.test_key));
    assert_eq!(test.get("/v1/whoami").await.expect(200)["environment"], "test");
    for list in ["/v1/sessions", "/v1/agents"] {
        assert_eq!(test.get(list).await.expect(200)["data"], json!([]), "{list}");
        assert_ne!(live.get(list).await.expect(200)["data"], json!([]), "{list}");
    }
    assert_eq!(test.get("/v1/secrets").await.expect(200), json!([]));

    let session = test.session("same user").await;
    assert_ne!(session, tenant.session);
    test.set_secrets(&session, json!({ "TEST_ONLY": "x" })).await;
    test.post("/v1/secrets", json!({ "TEST_SHARED": "x" })).await.expect(204);
    let names = |answer: Answer| answer.expect(200);
    assert_eq!(
        names(test.get(&format!("/v1/sessions/{session}/secrets?inherited=true")).await),
        json!(["TEST_ONLY", "TEST_SHARED"])
    );
    let own = format!("/v1/sessions/{}/secrets?inherited=true", tenant.session);
    assert_eq!(names(live.get(&own).await), json!(["OWN", "SHARED"]));
    live.get(&format!("/v1/sessions/{session}")).await.expect_error(404, "not_found");
    live.get(&format!("/v1/sessions/{session}/secrets")).await.expect_error(404, "not_found");
    live.delete("/v1/secrets/TEST_SHARED").await.expect_error(404, "not_found");
    test.delete("/v1/secrets/SHARED").await.expect_error(404, "not_found");
    let listed = live.get("/v1/sessions").await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);

    test.terminate(&session).await;
    assert_eq!(live.get(&format!("/v1/sessions/{}", tenant.session)).await.expect(200)["status"], "active");
    live.terminate(&tenant.session).await;
}

/// Takes one connection on a port of the agent and tells what came over it.
const LISTEN: &str = "
import socket
s = socket.create_server(('0.0.0.0', 8123))
s.settimeout(100)
open('/data/listening', 'w').close()
c, _ = s.accept()
print(c.recv(99).decode(), end='')
";
const CONNECT: &str = "
import socket, sys
for address in sys.stdin.read().split():
    try:
        socket.create_connection((address, 8123), timeout=4).sendall(b'hello')
        print('connected', end='')
    except OSError:
        print('failed', end=' ')
";

#[tokio::test]
async fn agents_of_two_sessions_share_neither_files_nor_environment_nor_network() {
    let client = Platform::make("two sessions").await.client;
    let (one, two) = (client.session("one").await, client.session("two").await);
    let secrets = [Canary::make(), Canary::make()];
    client.set_secrets(&one, json!({ "OF_ONE": secrets[0].value() })).await;
    client.set_secrets(&two, json!({ "OF_TWO": secrets[1].value() })).await;
    let (listener, caller) = tokio::join!(client.boot(&one, json!({})), client.boot(&two, json!({})));

    let (seen_by_one, seen_by_two) = (client.environment(&listener).await, client.environment(&caller).await);
    assert_eq!(
        (&seen_by_one["OF_ONE"].1, &seen_by_two["OF_TWO"].1),
        (&sha256(secrets[0].value()), &sha256(secrets[1].value()))
    );
    assert!(!seen_by_one.contains_key("OF_TWO") && !seen_by_two.contains_key("OF_ONE"));

    client
        .run(&listener, "bash", "echo one > /data/file; echo one > /tmp/file; echo one > /dev/shm/file || true")
        .await;
    assert_eq!(
        client.run(&caller, "bash", "cat /data/file /tmp/file /dev/shm/file 2>/dev/null | wc -c").await.trim(),
        "0"
    );
    client.get(&format!("/v1/agents/{caller}/files/data/file")).await.expect_error(404, "not_found");
    client.get(&format!("/v1/agents/{listener}/files/data/file")).await.expect(200);
    // Nor are the other's processes seen.
    assert_eq!(
        client.run(&caller, "bash", "cat /proc/[0-9]*/environ 2>/dev/null | grep -c OF_ONE || true").await.trim(),
        "0"
    );

    let docker = docker().await;
    let inspected = docker.inspect_container(&container_name(&listener), None).await.unwrap();
    let networks = inspected.network_settings.unwrap().networks.unwrap();
    let addresses: Vec<String> = networks.values().filter_map(|network| network.ip_address.clone()).collect();
    assert_eq!(addresses.len(), 1, "an agent has one network");
    let body = json!({ "language": "python", "code": LISTEN });
    let path = format!("/v1/agents/{listener}/exec");
    let listening = client.post(&path, body);
    let connecting = async {
        wait_for_file(&client, &listener, "data/listening").await;
        // Its address, and its names, which an engine's own resolver might know.
        let name = container_name(&listener);
        let targets = format!("{} {name} agent.{name}", addresses[0]);
        let foreign = connect(&client, &caller, &targets).await;
        let own = connect(&client, &listener, &addresses[0]).await;
        (foreign, own)
    };
    let (listened, (foreign, own)) = tokio::join!(listening, connecting);
    assert_eq!(foreign, "failed failed failed ");
    // The listener was there to be reached.
    assert_eq!((own.as_str(), &listened.expect(200)["stdout"]), ("connected", &json!("hello")));
    client.terminate(&one).await;
    client.terminate(&two).await;
}

async fn connect(client: &Client, agent: &str, targets: &str) -> String {
    let body = json!({ "language": "python", "code": CONNECT, "stdin": targets });
    let ran = client.post(&format!("/v1/agents/{agent}/exec"), body).await.expect(200);
    ran["stdout"].as_str().unwrap().to_owned()
}

async fn wait_for_file(client: &Client, agent: &str, path: &str) {
    for _ in 0..300 {
        if client.get(&format!("/v1/agents/{agent}/files/{path}")).await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{path} never came");
}

#[tokio::test]
async fn the_delivered_environment_cannot_be_read_through_the_file_routes() {
    let client = Platform::make("environment files").await.client;
    let session = client.session("u").await;
    let secret = Canary::make();
    client.set_secrets(&session, json!({ "TOKEN": secret.value() })).await;
    let agent = client.boot(&session, json!({})).await;
    // It is there, for the agent's own programs; a path that leads nowhere would prove nothing.
    let there = "import hashlib, os\n\
        for path in ['/run/agent/env', '/data/file', '/data/dir/env', '/data/relative', '/data/self', '/data/own']:\n\
        \x20   assert os.environ['TOKEN'].encode() in open(path, 'rb').read(), path";
    client
        .run(
            &agent,
            "bash",
            "ln -s /run/agent/env file; ln -s /run/agent dir; ln -s ../run/agent/env relative; \
             ln -s /proc/self/environ self; ln -s ../proc/self/environ own; ln -s /proc/self/fd fds; ln -s / root",
        )
        .await;
    client.run(&agent, "python", there).await;
    let files = format!("/v1/agents/{agent}/files");
    for path in [
        "run/agent/env",
        "%2Frun%2Fagent%2Fenv",
        "proc/self/environ",
        "proc/1/environ",
        "data/..%2Frun%2Fagent%2Fenv",
        "tmp%2F..%2Frun%2Fagent%2Fenv",
        "data/file",
        "data/dir/env",
        "data/relative",
        "data/self",
        "data/own",
        "data/fds/0",
        "data/root/run/agent/env",
    ] {
        for query in ["", "?encoding=base64", "?offset=1&length=64"] {
            let answer = client.get(&format!("{files}/{path}{query}")).await;
            secret.is_not_in(path, &answer.text);
            assert_eq!(answer.expect_error(400, "invalid_request")["details"]["field"], "path", "{path}");
        }
        let body = json!({ "path": path.replace("%2F", "/"), "data": "TOKEN=changed\0", "append": true });
        let written = client.post(&files, body).await.expect_error(400, "invalid_request");
        assert_eq!(written["details"]["field"], "path", "{path}");
    }
    for dir in ["/run/agent", "/run", "/proc/self", "/data/dir", "/data/fds", "/data/root"] {
        let answer = client.get(&format!("{files}?dir={dir}")).await;
        assert_eq!(answer.expect_error(400, "invalid_request")["details"]["field"], "dir", "{dir}");
    }
    assert_eq!(client.environment(&agent).await["TOKEN"].1, sha256(secret.value()));
    client.terminate(&session).await;
}

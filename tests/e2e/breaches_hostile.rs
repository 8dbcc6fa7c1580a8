//! Agents and end users that mean harm. What reads the delivered environment through the file routes is in `isolation`.

use crate::breaches::Victim;
use crate::harness::{
    CountedListener, container_name, docker, fail_agent, own_machine_is_no_host, serve_deployment, stack,
};
use bollard::Docker;
use bollard::query_parameters::UploadToContainerOptionsBuilder;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use theazo_docker_hosts::Authority;
use theazo_tenancy::Mode;

/// Has the engine make devices in an agent's `/data`, out of an archive: name, kind of the archive's entry, numbers.
async fn put_devices(docker: &Docker, name: &str, devices: &[(&str, u8, (u32, u32))]) {
    let mut archive = Vec::new();
    for (device, kind, (major, minor)) in devices {
        let mut header = [0; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, device);
        put(100, "0000666");
        [108, 116].into_iter().for_each(|id| put(id, "0000000"));
        [124, 136].into_iter().for_each(|number| put(number, "00000000000"));
        put(148, "        ");
        put(257, "ustar\x0000");
        put(329, &format!("{major:07o}"));
        put(337, &format!("{minor:07o}"));
        header[156] = *kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend_from_slice(&header);
    }
    archive.resize(archive.len() + 1024, 0);
    let options = UploadToContainerOptionsBuilder::default().path("/data").build();
    docker.upload_to_container(name, Some(options), bollard::body_full(archive.into())).await.unwrap();
}

#[tokio::test]
async fn links_devices_sockets_and_pipes_that_an_agent_leaves_are_refused_and_nobody_waits_for_them() {
    let victim = Victim::make("odd files").await;
    let client = victim.client();
    let agent = client.boot(&victim.session, json!({})).await;
    client
        .run(
            &agent,
            "bash",
            "echo fine > fine; mkfifo pipe; ln -s /dev/zero zero; ln -s /dev/stdin stdin; ln -s pipe to-pipe; mkdir folder; \
             ln -s /proc/self/mem mem; ln -s folder/../../run/agent/env env; ln /etc/shadow hard 2>/dev/null; \
             python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('socket')\"",
        )
        .await;
    // An agent may not make devices; should one get there all the same, they are no files either.
    let devices = [("device", b'3', (1, 5)), ("disk", b'4', (8, 0)), ("terminal", b'3', (5, 0))];
    put_devices(&docker().await, &container_name(&agent), &devices).await;
    let kinds = client.run(&agent, "bash", "stat -c %F device disk terminal").await;
    assert_eq!(kinds, "character special file\nblock special file\ncharacter special file\n");

    let files = format!("/v1/agents/{agent}/files");
    let mut longest = Duration::ZERO;
    for name in ["pipe", "zero", "stdin", "to-pipe", "folder", "mem", "env", "socket", "device", "disk", "terminal"] {
        for query in ["", "?offset=0&length=64", "?encoding=base64"] {
            let started = Instant::now();
            let read = client.get(&format!("{files}/data/{name}{query}")).await;
            longest = longest.max(started.elapsed());
            victim.canary.is_not_in(name, &read.text);
            assert_eq!(read.expect_error(400, "invalid_request")["details"]["field"], "path", "{name}{query}");
        }
        for extra in [json!({ "append": true }), json!({ "offset": 0 })] {
            let mut body = json!({ "path": format!("/data/{name}"), "data": "x" });
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let started = Instant::now();
            let written = client.post(&files, body).await.expect_error(400, "invalid_request");
            longest = longest.max(started.elapsed());
            assert_eq!(written["details"]["field"], "path", "{name}");
        }
    }
    // Whoever waited for a pipe's other end would wait for as long as the call may take.
    assert!(longest < Duration::from_secs(20), "{longest:?}");
    let listed = client.get(&format!("{files}?dir=/data")).await;
    assert!(listed.text.len() < 10_000);
    listed.expect(200);
    assert_eq!(client.get(&format!("{files}/data/fine")).await.expect(200)["data"], "fine\n");
    assert_eq!(client.run(&agent, "bash", "cat fine").await, "fine\n");
    client.terminate(&victim.session).await;
}

#[tokio::test]
async fn a_provider_aimed_at_loopback_the_runtime_api_or_the_metadata_address_is_refused_without_a_connection() {
    let victim = Victim::make("provider address").await;
    let client = victim.client();
    let listener = CountedListener::start().await;
    let port = listener.port;
    // The functions as they are deployed; the local stack lets its own machine be a host.
    let deployed = own_machine_is_no_host(tokio::task::spawn_blocking(stack).await.unwrap());
    let deployed = client.with_base(&serve_deployment(deployed).await);
    let (no_host, no_address) =
        ("hosts[0].url must be tcp://host:port", "hosts[0].url has an address that hosts may not have");
    // What reaches for the host is in order but for its address.
    let authority = Authority::make("a host that is none");
    let pair = authority.client();
    for (url, told) in [
        (format!("tcp://127.0.0.1:{port}"), no_address),
        (format!("tcp://[::1]:{port}"), no_address),
        (format!("tcp://[::ffff:127.0.0.1]:{port}"), no_address),
        (format!("tcp://0.0.0.0:{port}"), no_address),
        ("tcp://127.0.0.1:9001".to_owned(), no_address),
        ("tcp://169.254.100.1:9001".to_owned(), no_address),
        ("tcp://169.254.169.254:80".to_owned(), no_address),
        ("tcp://[::ffff:169.254.169.254]:80".to_owned(), no_address),
        ("tcp://[fd00:ec2::254]:80".to_owned(), no_address),
        ("tcp://169.254.170.2:80".to_owned(), no_address),
        (format!("tcp://2130706433:{port}"), no_host),
        (format!("tcp://0x7f.1:{port}"), no_host),
        (format!("tcp://0x7f000001:{port}"), no_host),
        (format!("https://127.0.0.1:{port}"), no_host),
        (format!("http://127.0.0.1:{port}"), no_host),
        (format!("https://0x7f.1:{port}"), no_host),
        ("http://127.0.0.1:9001/2018-06-01/runtime/invocation/next".to_owned(), no_host),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), no_host),
        ("http://[fd00:ec2::254]/".to_owned(), no_host),
        ("unix:///var/run/docker.sock".to_owned(), no_host),
    ] {
        let host = json!({ "url": url, "ca": authority.cert(), "cert": pair.cert, "key": pair.key, "maxAgents": 1 });
        client.post("/v1/secrets", json!({ "HOSTS": json!({ "hosts": [host] }).to_string() })).await.expect(204);
        let docker = json!({ "credentialRef": "HOSTS", "config": { "image": "agent:1" } });
        let refused = deployed.call("PUT", "/v1/providers/docker", Some(&docker)).await;
        let error = refused.expect_error(400, "invalid_request");
        assert_eq!(error["details"]["field"], "credentialRef", "{url}");
        assert!(error["message"].as_str().unwrap().contains(told), "{url}: {error}");
        // No other provider's configuration has an address at all.
        for (provider, field) in [("e2b", "apiUrl"), ("fly", "apiUrl"), ("docker", "url")] {
            let body = json!({ "credentialRef": "HOSTS", "config": { field: url } });
            let refused = deployed.call("PUT", &format!("/v1/providers/{provider}"), Some(&body)).await;
            refused.expect_not_built(&format!("config.{field}"));
        }
        // Nor is it reached later, by what lists providers or boots agents.
        let listed = deployed.get("/v1/providers").await.expect(200);
        assert!(listed["data"].as_array().unwrap().iter().all(|one| one["source"] != "platform"), "{listed}");
    }
    // A name tells where it leads only when it is looked up, and that is when it is refused.
    let url = format!("tcp://localhost:{port}");
    let host = json!({ "url": url, "ca": authority.cert(), "cert": pair.cert, "key": pair.key, "maxAgents": 1 });
    client.post("/v1/secrets", json!({ "HOSTS": json!({ "hosts": [host] }).to_string() })).await.expect(204);
    let docker = json!({ "credentialRef": "HOSTS", "config": { "image": "agent:1" } });
    deployed.call("PUT", "/v1/providers/docker", Some(&docker)).await.expect(200);
    let listed = deployed.get("/v1/providers").await.expect(200);
    let own = listed["data"].as_array().unwrap().iter().find(|one| one["source"] == "platform").unwrap();
    assert_eq!(own["health"]["healthy"], false, "{own}");
    deployed.call("DELETE", "/v1/providers/docker", None).await.expect(204);
    let body = json!({ "provider": "docker", "config": { "url": format!("http://127.0.0.1:{port}") } });
    let agent = client.saying_more().post(&format!("/v1/sessions/{}/agents", victim.session), body).await;
    assert!([201, 422].contains(&agent.status), "{agent:?}");
    assert_eq!(listener.connections(), 0);
    // The count does count.
    drop(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    for _ in 0..100 {
        if listener.connections() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(listener.connections(), 1);
    client.call("POST", &format!("/v1/sessions/{}/terminate", victim.session), None::<&Value>).await.expect(200);
}

#[tokio::test]
async fn a_sessions_token_does_not_resume_what_the_platform_paused() {
    let victim = Victim::make("paused").await;
    let platform = victim.client().with_key(Some(&victim.platform.test_key));
    let session = platform.session("user").await;
    let agent = platform.boot(&session, json!({})).await;
    let minted = platform.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    let user = platform.with_key(minted["token"].as_str());
    let (pause, resume) = (format!("/v1/agents/{agent}/pause"), format!("/v1/agents/{agent}/resume"));
    platform.post(&format!("/v1/agents/{agent}/checkpoints"), json!({})).await.expect(201);

    platform.call("POST", &pause, None).await.expect(200);
    for way in [resume.clone(), format!("/v1/agents/{agent}/restart"), format!("/v1/sessions/{session}/resume")] {
        let refused = user.call("POST", &way, None).await;
        assert!([403, 409].contains(&refused.status), "{way}: {refused:?}");
        assert_eq!(platform.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"], "paused", "{way}");
    }
    // To pause it once more does not make the pause the user's own.
    user.call("POST", &pause, None).await;
    let refused = user.call("POST", &resume, None).await;
    assert!([403, 409].contains(&refused.status), "{refused:?}");
    platform.call("POST", &resume, None).await.expect(200);

    platform.call("POST", &format!("/v1/sessions/{session}/pause"), None).await.expect(200);
    let refused = user.call("POST", &resume, None).await;
    assert!([403, 409].contains(&refused.status), "{refused:?}");
    let made = user.post(&format!("/v1/sessions/{session}/agents"), json!({})).await;
    made.expect_error(409, "conflict");
    platform.call("POST", &format!("/v1/sessions/{session}/resume"), None).await.expect(200);
    // What the user paused, the user resumes.
    user.call("POST", &pause, None).await.expect(200);
    user.call("POST", &resume, None).await.expect(200);
    // Nor is an agent that has failed while the platform had it paused the user's to retry.
    platform.call("POST", &pause, None).await.expect(200);
    fail_agent(&victim.platform.id, Mode::Test, &agent).await;
    let retry = format!("/v1/agents/{agent}/retry");
    user.call("POST", &retry, None).await.expect_error(403, "forbidden");
    platform.call("POST", &retry, None).await.expect(200);
    fail_agent(&victim.platform.id, Mode::Test, &agent).await;
    user.call("POST", &retry, None).await.expect(200);
}

//! Breach drills on the host that agents run on: who may read its engine's API, who has an image of an agent.

use crate::breaches::Victim;
use crate::harness::{
    Events, commit_and_search, container_name, docker, engine_records, has_firewall, run_as_root, stack,
};
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::{ContainerConfig, ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptions, StartContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt;
use serde_json::json;
use std::time::Duration;

/// Holds the value in a process while others look, and says so in a file.
const HOLD: &str = "printf %s \"$TOKEN\" | wc -c > /data/held; sleep 60 & wait";

/// Boots an agent in which a program with the value in its environment runs for as long as `look` takes.
async fn while_held(victim: &Victim, look: impl AsyncFnOnce(&Docker, &str)) {
    let client = victim.client();
    let agent = client.boot(&victim.session, json!({})).await;
    let exec = format!("/v1/agents/{agent}/exec");
    let holding = client.post(&exec, json!({ "language": "bash", "code": HOLD }));
    let looking = async {
        let held = format!("/v1/agents/{agent}/files/data/held");
        for _ in 0..300 {
            let read = client.get(&held).await;
            if read.status == 200 && read.json()["data"] == format!("{}\n", victim.canary.value().len()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let read = client.get(&held).await.expect(200);
        assert_eq!(read["data"], format!("{}\n", victim.canary.value().len()), "the agent must hold the value");
        let docker = docker().await;
        look(&docker, &container_name(&agent)).await;
    };
    tokio::select! {
        () = looking => {}
        answer = holding => panic!("the agent let go too early: {answer:?}"),
    }
    client.terminate(&victim.session).await;
}

#[tokio::test]
async fn read_access_to_the_docker_hosts_api_short_of_exec_and_top_shows_no_value() {
    let victim = Victim::make("engine reader").await;
    let events = Events::start(&docker().await);
    while_held(&victim, async |docker, name| {
        let canary = &victim.canary;
        let records = engine_records(docker, name).await;
        assert_eq!(records.len(), 5, "container, network, volume, changes and logs");
        for (kind, bytes) in &records {
            canary.is_not_in(&format!("the engine's {kind}"), bytes);
        }
        let (found, size) = canary.find_in_stream(docker.export_container(name)).await;
        assert!(size > 1024 * 1024, "{size} bytes are no file system");
        assert_eq!(found, None, "the export");
        let mut archived = 0;
        for path in
            ["/data", "/tmp", "/run", "/run/agent", "/run/agent/env", "/etc", "/dev/shm", "/proc/1", "/proc/self"]
        {
            let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
            let mut pieces = Box::pin(docker.download_from_container(name, Some(options)));
            let mut bytes = Vec::new();
            // Whether there is such a path, and whether the engine gives it away, is not what this is about.
            while let Some(Ok(piece)) = pieces.next().await {
                bytes.extend_from_slice(&piece);
            }
            canary.is_not_in(&format!("the archive of {path}"), &bytes);
            archived += bytes.len();
        }
        assert!(archived > 10_000, "{archived} bytes of archives");
        let (shown, found, size) = commit_and_search(canary, docker, name).await;
        canary.is_not_in("the committed image's description", shown);
        assert!(size > 1024 * 1024, "{size} bytes are no image");
        assert_eq!(found, None, "the saved image");
    })
    .await;
    let events = events.until(&["\"create\"", "exec_create", "\"destroy\""]).await;
    victim.canary.is_not_in("the engine's events", events);
}

#[tokio::test]
async fn a_committed_image_boots_with_no_value_in_it() {
    let victim = Victim::make("image").await;
    while_held(&victim, async |docker, name| {
        let repo = "theazo-e2e-stolen";
        let commit = CommitContainerOptionsBuilder::default().container(name).repo(repo).tag(name).build();
        docker.commit_container(commit, ContainerConfig::default()).await.unwrap();
        let (image, copy) = (format!("{repo}:{name}"), format!("{name}-stolen"));
        let search = "ls -A /run/agent; cat /run/agent/* /proc/*/environ /dev/shm/* /tmp/* /data/*; echo searched";
        let body = ContainerCreateBody {
            image: Some(image.clone()),
            entrypoint: Some(vec!["/bin/bash".into(), "-c".into()]),
            cmd: Some(vec![search.into()]),
            user: Some("0".into()),
            host_config: Some(HostConfig { network_mode: Some("none".into()), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&copy).build();
        docker.create_container(Some(options), body).await.unwrap();
        docker.start_container(&copy, None::<StartContainerOptions>).await.unwrap();
        let _ended: Vec<_> = docker.wait_container(&copy, None::<WaitContainerOptions>).collect().await;
        let logs = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
        let lines: Vec<LogOutput> = docker.logs(&copy, Some(logs)).map(Result::unwrap).collect().await;
        let printed: Vec<u8> = lines.into_iter().flat_map(LogOutput::into_bytes).collect();
        let remove = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        docker.remove_container(&copy, Some(remove)).await.unwrap();
        docker.remove_image(&image, None::<RemoveImageOptions>, None).await.unwrap();
        let text = String::from_utf8_lossy(&printed);
        assert!(text.contains("searched"), "{text}");
        assert!(!text.contains("TOKEN"), "not even the name: {text}");
        victim.canary.is_not_in("a container of the image", &printed);
    })
    .await;
}

/// Takes connections, and says in a file when it does.
const LISTEN: &str = "import socket
s = socket.create_server(('0.0.0.0', 8123))
open('/data/listening', 'w').close()
s.settimeout(60)
while True: s.accept()[0].close()";

/// A service of the host's that would answer everybody, and a shell line that prints what of the host and of the cloud
/// around it lets itself be connected to.
async fn knock_at(docker: &Docker, name: &str) -> (std::net::TcpListener, String) {
    let service = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let mut ports = vec![service.local_addr().unwrap().port().to_string()];
    ports.extend(
        [stack().base_url(), stack().dynamodb_url(), stack().kms_url()]
            .map(|url| url.rsplit(':').next().unwrap().trim_end_matches('/').to_owned()),
    );
    ports.extend(["22", "2375", "2376"].map(str::to_owned));
    let shown = docker.inspect_container(name, None).await.unwrap();
    let networks = shown.network_settings.unwrap().networks.unwrap();
    let gateway = networks.into_values().find_map(|network| network.gateway.filter(|gateway| !gateway.is_empty()));
    let host = gateway.expect("the host is the network's gateway");
    let mut targets: Vec<String> = ports.iter().map(|port| format!("{host}/{port}")).collect();
    targets.extend(["169.254.169.254/80", "169.254.170.2/80", "fd00:ec2::254/80"].map(str::to_owned));
    let line = format!(
        "for target in {}; do (timeout 2 bash -c \"echo > /dev/tcp/$target\" 2>/dev/null && echo \"reached $target\") & \
         done; wait; echo tried",
        targets.join(" ")
    );
    (service, line)
}

#[tokio::test]
async fn root_inside_one_container_reaches_no_sibling_no_engine_and_nothing_of_the_host() {
    let (victim, breached) = tokio::join!(Victim::make("sibling"), Victim::make("breached"));
    let has_firewall = tokio::task::spawn_blocking(has_firewall).await.unwrap();
    let client = victim.client();
    let (sibling, own) =
        tokio::join!(client.boot(&victim.session, json!({})), breached.client().boot(&breached.session, json!({})),);
    let exec = format!("/v1/agents/{sibling}/exec");
    let listening = client.post(&exec, json!({ "language": "python", "code": LISTEN }));
    let breaking = async {
        let file = format!("/v1/agents/{sibling}/files/data/listening");
        for _ in 0..300 {
            if client.get(&file).await.status == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let docker = docker().await;
        let shown = docker.inspect_container(&container_name(&sibling), None).await.unwrap();
        let networks = shown.network_settings.unwrap().networks.unwrap();
        let address = networks.into_values().find_map(|network| network.ip_address).unwrap();
        let name = container_name(&sibling);
        let connect = format!(
            "for host in {address} {name} agent.{name}; do \
             timeout 3 bash -c \"echo > /dev/tcp/$host/8123\" 2>/dev/null && echo \"reached $host\"; done; echo tried"
        );
        // The listener can be reached where it may be.
        let within = format!("timeout 3 bash -c 'echo > /dev/tcp/{address}/8123' && echo reached");
        assert_eq!(run_as_root(&docker, &name, false, &within).await, "reached\n");
        let root = async |line: &str| run_as_root(&docker, &container_name(&own), false, line).await;
        assert_eq!(root(&connect).await, "tried\n");
        assert_eq!(
            root("id -u; ls /var/run/docker.sock /run/docker.sock 2>/dev/null; echo looked").await,
            "0\nlooked\n"
        );
        // It is root of its own container only: it holds no capability with which it could leave it.
        let rights = root("grep CapEff /proc/self/status; mount -t tmpfs none /mnt 2>/dev/null && echo mounted").await;
        assert_eq!(rights.split_whitespace().last(), Some("0000000000000000"), "{rights}");
        let seen =
            root("cat /proc/*/environ /proc/*/cmdline /run/agent/* 2>/dev/null; ls /data /tmp; echo searched").await;
        assert!(seen.contains("searched") && !seen.contains("listening"), "{seen}");
        victim.canary.is_not_in("what root of another container sees", &seen);
        // Nor does it find a service of the host's, the engine's API or an address of cloud metadata.
        if has_firewall {
            let (_service, knock) = knock_at(&docker, &container_name(&own)).await;
            assert_eq!(root(&knock).await, "tried\n");
        }
        // Devices of the host are not to be had either.
        let disk = root(
            "for d in /dev/sd* /dev/vd* /dev/nvme* /dev/mem /dev/kmsg; do head -c1 $d 2>/dev/null; done; echo end",
        );
        assert_eq!(disk.await, "end\n");
    };
    tokio::select! {
        () = breaking => {}
        answer = listening => panic!("the listener ended too early: {answer:?}"),
    }
    client.terminate(&victim.session).await;
    breached.client().terminate(&breached.session).await;
}

//! Files beneath `/data` and `/tmp`, and nowhere else.

use crate::support::{agent, environment, in_own_deployment, spec};
use bytes::Bytes;
use theazo_providers::{Language, Provider, ProviderError, WriteAt};

#[tokio::test]
async fn files_with_spaces_and_any_script_in_their_names_are_written_read_and_listed() {
    in_own_deployment(|bed| async move {
        let agent = bed.create().await;
        let path = "/data/a b/ünï 文件 🦀.bin";
        let data: Bytes = (0..=255).cycle().take(4 * 1024 * 1024).collect();
        bed.provider.write_file(&agent, path, None, data.clone()).await.unwrap();
        let piece = bed.provider.read_file(&agent, path, 0, 4 * 1024 * 1024).await.unwrap();
        assert!(piece.data == data && piece.size == data.len() as u64);
        let middle = bed.provider.read_file(&agent, path, 256 * 7 + 3, 4).await.unwrap();
        assert_eq!(&middle.data[..], [3, 4, 5, 6]);
        let end = bed.provider.read_file(&agent, path, piece.size - 1, 100).await.unwrap();
        assert_eq!(&end.data[..], [255]);

        let listed = bed.provider.list_files(&agent, "/data/a b").await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].name.as_str(), listed[0].size), ("ünï 文件 🦀.bin", data.len() as u64));
        let listed = bed.provider.list_files(&agent, "/data").await.unwrap();
        assert!(listed.iter().any(|entry| entry.name == "a b" && entry.directory));
    })
    .await;
}

#[tokio::test]
async fn offset_and_end_change_a_file_in_place_and_none_replaces_it() {
    in_own_deployment(|bed| async move {
        let agent = bed.create().await;
        let path = "/tmp/log.txt";
        let write =
            |at, text: &'static str| bed.provider.write_file(&agent, path, at, Bytes::from_static(text.as_bytes()));
        write(None, "hello world").await.unwrap();
        write(Some(WriteAt::Offset(6)), "W").await.unwrap();
        write(Some(WriteAt::End), "!").await.unwrap();
        assert_eq!(bed.output(&agent, Language::Bash, "cat /tmp/log.txt").await, "hello World!");
        write(None, "x").await.unwrap();
        assert_eq!(&bed.provider.read_file(&agent, path, 0, 10).await.unwrap().data[..], b"x");
    })
    .await;
}

#[tokio::test]
async fn no_path_and_no_link_leads_out_of_the_reachable_directories() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        bed.provider.create(&spec, &environment(&[("API_TOKEN", "not-a-file")])).await.unwrap();
        let agent = agent(&spec);
        let links = "ln -s /run/agent/env /data/env; ln -s /run/agent /data/run; ln -s ../../run/agent/env /data/up; \
                     ln -s /etc /tmp/etc; ln -s /proc/self/environ /data/environ";
        bed.output(&agent, Language::Bash, links).await;
        let outside = |result: Option<ProviderError>| matches!(result, Some(ProviderError::PathOutside));
        for path in ["/data/env", "/data/up", "/data/environ"] {
            assert!(outside(bed.provider.read_file(&agent, path, 0, 100).await.err()), "read {path}");
            let end = Some(WriteAt::End);
            let appended = bed.provider.write_file(&agent, path, end, Bytes::from_static(b"x")).await;
            assert!(outside(appended.err()), "append {path}");
        }
        for path in [
            "/run/agent/env",
            "/data/../run/agent/env",
            "/data/run/env",
            "/proc/self/environ",
            "/etc/hostname",
            "/tmp/etc/hostname",
            "/",
            "data/x",
        ] {
            assert!(outside(bed.provider.read_file(&agent, path, 0, 100).await.err()), "read {path}");
            let written = bed.provider.write_file(&agent, path, None, Bytes::from_static(b"x")).await;
            assert!(outside(written.err()), "write {path}");
        }
        let listed = bed.provider.list_files(&agent, "/data/run").await;
        assert!(matches!(listed, Err(ProviderError::PathOutside)));
        let seen = bed.output(&agent, Language::Bash, "printf %s \"$API_TOKEN\"").await;
        assert_eq!(seen, "not-a-file", "no write went through a link");
    })
    .await;
}

#[tokio::test]
async fn what_is_missing_or_of_another_kind_is_said_to_be_so() {
    in_own_deployment(|bed| async move {
        let agent = bed.create().await;
        let missing = bed.provider.read_file(&agent, "/data/none", 0, 1).await;
        assert!(matches!(missing, Err(ProviderError::FileNotFound)));
        assert!(matches!(bed.provider.list_files(&agent, "/data/none").await, Err(ProviderError::FileNotFound)));
        let directory = bed.provider.read_file(&agent, "/data", 0, 1).await;
        assert!(matches!(directory, Err(ProviderError::PathUnusable(_))), "{:?}", directory.err());
        let nul = bed.provider.read_file(&agent, "/data/a\0b", 0, 1).await;
        assert!(matches!(nul, Err(ProviderError::PathUnusable(_))));
        let full = "import sys\ntry:\n open('/tmp/fill','wb').write(bytes(255*1024*1024))\nexcept OSError: pass";
        bed.output(&agent, Language::Python, full).await;
        let data = Bytes::from(vec![1; 4 * 1024 * 1024]);
        let full = bed.provider.write_file(&agent, "/tmp/more", None, data).await;
        assert!(matches!(full, Err(ProviderError::NoSpace)), "{:?}", full.err());
    })
    .await;
}

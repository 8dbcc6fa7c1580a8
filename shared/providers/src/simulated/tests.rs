//! The provider on a disk in memory, which can be told to let others write in between.

use super::*;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use theazo_guest_protocol::Language;
use theazo_vault::SecretValue;

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct Kept {
    index: Option<StoredIndex>,
    pieces: HashMap<String, Bytes>,
    gone_by_ms: Vec<i64>,
}

#[derive(Clone, Default)]
struct Memory {
    agents: Arc<Mutex<HashMap<String, Kept>>>,
    /// How many of the next replacements happen and are refused all the same, as when their answer was lost.
    lost_answers: Arc<AtomicU32>,
}

impl Memory {
    fn with<T>(&self, agent: &str, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(self.agents.lock().unwrap().entry(agent.to_owned()).or_default())
    }
}

#[async_trait]
impl SimulatedDisk for Memory {
    async fn make(&self, agent: &str, index: Vec<u8>, gone_by_ms: i64) -> Result<bool, ProviderError> {
        Ok(self.with(agent, |kept| {
            let is_new = kept.index.is_none();
            if is_new {
                kept.index = Some(StoredIndex { revision: 1, bytes: index });
                kept.gone_by_ms.push(gone_by_ms);
            }
            is_new
        }))
    }

    async fn index(&self, agent: &str) -> Result<Option<StoredIndex>, ProviderError> {
        let index = self.with(agent, |kept| kept.index.clone());
        tokio::task::yield_now().await;
        Ok(index)
    }

    async fn replace(&self, agent: &str, read: u64, index: Vec<u8>, gone_by_ms: i64) -> Result<bool, ProviderError> {
        let replaced = self.with(agent, |kept| {
            let is_same = kept.index.as_ref().is_some_and(|stored| stored.revision == read);
            if is_same {
                kept.index = Some(StoredIndex { revision: read + 1, bytes: index });
                kept.gone_by_ms.push(gone_by_ms);
            }
            is_same
        });
        let lost = self.lost_answers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        Ok(replaced && lost.is_err())
    }

    async fn put(&self, agent: &str, pieces: Vec<(String, Bytes)>, gone_by_ms: i64) -> Result<(), ProviderError> {
        self.with(agent, |kept| {
            for (id, piece) in pieces {
                assert!(piece.len() <= MAX_PIECE_BYTES && kept.pieces.insert(id, piece).is_none());
                kept.gone_by_ms.push(gone_by_ms);
            }
        });
        Ok(())
    }

    async fn get(&self, agent: &str, ids: &[&str]) -> Result<HashMap<String, Bytes>, ProviderError> {
        let find = |kept: &mut Kept| {
            let found = ids.iter().filter_map(|id| Some(((*id).to_owned(), kept.pieces.get(*id)?.clone())));
            found.collect()
        };
        Ok(self.with(agent, find))
    }

    async fn delete(&self, agent: &str, ids: &[&str]) -> Result<(), ProviderError> {
        self.with(agent, |kept| kept.pieces.retain(|id, _| !ids.contains(&id.as_str())));
        Ok(())
    }

    async fn remove(&self, agent: &str) -> Result<(), ProviderError> {
        self.agents.lock().unwrap().remove(agent);
        Ok(())
    }
}

struct Bed {
    disk: Memory,
    provider: SimulatedProvider<Memory>,
    agent: AgentRef,
}

fn spec(lifetime: Duration) -> SandboxSpec {
    let (session, platform) = ("ses_1".into(), "plt_1".into());
    SandboxSpec { agent: "agt_1".into(), session, platform, lifetime, internet: true, region: None }
}

fn environment(names: &[&str]) -> Environment {
    let mut environment = Environment::default();
    names.iter().for_each(|name| environment.set(*name, SecretValue::from_text("a value of the vault".to_owned())));
    environment
}

impl Bed {
    async fn make() -> Self {
        let disk = Memory::default();
        let provider = SimulatedProvider::new(disk.clone());
        provider.create(&spec(HOUR), &environment(&["THEAZO_AGENT_ID", "THEAZO_SESSION_ID", "KEY"])).await.unwrap();
        Self { disk, provider, agent: AgentRef { agent: "agt_1".into() } }
    }

    async fn put(&self, path: &str, at: Option<WriteAt>, data: impl AsRef<[u8]>) -> Result<(), ProviderError> {
        self.provider.write_file(&self.agent, path, at, Bytes::copy_from_slice(data.as_ref())).await
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, ProviderError> {
        Ok(self.provider.read_file(&self.agent, path, 0, u64::MAX).await?.data.to_vec())
    }

    async fn list(&self, dir: &str) -> Result<Vec<FileEntry>, ProviderError> {
        self.provider.list_files(&self.agent, dir).await
    }

    async fn exec(&self, code: &str) -> Result<ExecOutput, ProviderError> {
        let request = ExecRequest {
            language: Language::Python,
            code: code.into(),
            timeout: HOUR,
            stdin: Bytes::new(),
            output_cap: 1000,
            watch: None,
        };
        self.provider.exec(&self.agent, request).await
    }

    /// Pieces on the disk, and how many of them a file has.
    fn pieces(&self) -> (usize, usize) {
        self.disk.with("agt_1", |kept| {
            let index = Index::parse(&kept.index.as_ref().unwrap().bytes).unwrap();
            (kept.pieces.len(), index.files.values().flat_map(|file| file.pieces.iter().flatten()).count())
        })
    }
}

/// The error as a word.
#[track_caller]
fn word<T>(outcome: Result<T, ProviderError>) -> &'static str {
    match outcome.err().expect("it was not refused") {
        ProviderError::FileNotFound => "not found",
        ProviderError::PathOutside => "outside",
        ProviderError::PathUnusable(rule) => rule,
        ProviderError::NoSpace => "no space",
        ProviderError::SandboxGone => "gone",
        other => panic!("{other}"),
    }
}

const KIND: &str = "it names something of another kind";
const PATH: &str = "it is too long or has a NUL byte";

#[tokio::test]
async fn written_files_are_read_back_and_listed() {
    let bed = Bed::make().await;
    let content: Vec<u8> = (0..=255).cycle().take(2 * MAX_PIECE_BYTES + 17).collect();
    for path in ["/data/a/b c/\u{dc}n\u{ef} \u{6587}.bin", "/tmp//x/./y\n\"z"] {
        bed.put(path, None, &content).await.unwrap();
        assert!(bed.get(path).await.unwrap() == content, "{path}");
    }
    let listed = bed.list("/data/a/b c/").await.unwrap();
    assert_eq!(listed.len(), 1);
    let name = "\u{dc}n\u{ef} \u{6587}.bin";
    assert_eq!((listed[0].name.as_str(), listed[0].size, listed[0].directory), (name, content.len() as u64, false));
    assert!((now_ms() - listed[0].modified_ms).abs() < 60_000);
    // A name that sorts between a directory and what is in it.
    for name in ["/data/b", "/data/a.txt", "/data/a-"] {
        bed.put(name, None, "").await.unwrap();
    }
    let listed = bed.list("/data").await.unwrap();
    let shown: Vec<_> = listed.iter().map(|entry| (entry.name.as_str(), entry.directory)).collect();
    assert_eq!(shown, [("a", true), ("a-", false), ("a.txt", false), ("b", false)]);
    assert_eq!(Bed::make().await.list("/tmp").await.unwrap(), []);
}

#[tokio::test]
async fn pieces_land_where_they_were_sent() {
    let bed = Bed::make().await;
    for (at, bytes) in [
        (WriteAt::End, "abc"),
        (WriteAt::End, "def"),
        (WriteAt::Offset(1), "X"),
        (WriteAt::Offset(8), "Z"),
        (WriteAt::Offset(100), ""),
        (WriteAt::End, ""),
    ] {
        bed.put("/data/f", Some(at), bytes).await.unwrap();
    }
    assert_eq!(bed.get("/data/f").await.unwrap(), b"aXcdef\0\0Z");
    let piece = bed.provider.read_file(&bed.agent, "/data/f", 3, 2).await.unwrap();
    assert_eq!((piece.size, &*piece.data), (9, b"de".as_slice()));
    assert!(bed.provider.read_file(&bed.agent, "/data/f", 100, 2).await.unwrap().data.is_empty());
    bed.put("/data/f", None, "new").await.unwrap();
    assert_eq!(bed.get("/data/f").await.unwrap(), b"new");
    bed.put("/data/new", Some(WriteAt::Offset(5)), "").await.unwrap();
    assert_eq!(bed.get("/data/new").await.unwrap(), b"");
}

#[tokio::test]
async fn any_writes_give_what_a_plain_buffer_gives() {
    let bed = Bed::make().await;
    let mut model: Vec<u8> = Vec::new();
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let piece = MAX_PIECE_BYTES as u64;
    for step in 0..200_u8 {
        // Around the edges of pieces more often than elsewhere.
        let offset = if random(2) == 0 { random(4) * piece + random(3) } else { random(4 * piece) };
        let length = if random(3) == 0 { random(3 * piece) } else { random(4) };
        let data = vec![step; usize::try_from(length).unwrap()];
        let at = match random(8) {
            0 => None,
            1..=3 if model.len() < 6 * MAX_PIECE_BYTES => Some(WriteAt::End),
            _ => Some(WriteAt::Offset(offset)),
        };
        bed.put("/data/f", at, &data).await.unwrap();
        let start = match at {
            None => {
                model.clear();
                0
            }
            Some(WriteAt::End) => model.len(),
            Some(WriteAt::Offset(offset)) => usize::try_from(offset).unwrap(),
        };
        if !data.is_empty() {
            model.resize(model.len().max(start + data.len()), 0);
            model[start..start + data.len()].copy_from_slice(&data);
        }
        assert!(bed.get("/data/f").await.unwrap() == model, "step {step}");
        let (from, many) = (random(model.len() as u64 + 2), random(2 * piece));
        let read = bed.provider.read_file(&bed.agent, "/data/f", from, many).await.unwrap();
        let from = usize::try_from(from).unwrap().min(model.len());
        let to = (from + usize::try_from(many).unwrap()).min(model.len());
        assert!(read.data == model[from..to] && read.size == model.len() as u64, "step {step}");
        let (there, held) = bed.pieces();
        assert_eq!(there, held, "step {step} left pieces behind");
    }
}

#[tokio::test]
async fn paths_outside_the_roots_are_refused() {
    let bed = Bed::make().await;
    for path in [
        "/",
        "",
        "data/x",
        "/etc/passwd",
        "/data/../run/env",
        "/data/a/../b",
        "/datax/y",
        "/run/agent/env",
        "/../data",
        "/data/..",
        "//etc/passwd",
    ] {
        assert_eq!(word(bed.get(path).await), "outside", "{path}");
        assert_eq!(word(bed.put(path, None, "").await), "outside", "{path}");
        assert_eq!(word(bed.list(path).await), "outside", "{path}");
    }
    let names = ["/data/a\0b".to_owned(), format!("/data/{}", "n".repeat(256)), format!("/data/{}", "n/".repeat(3000))];
    for path in names {
        assert_eq!(word(bed.get(&path).await), PATH, "{path}");
        assert_eq!(word(bed.put(&path, None, "").await), PATH, "{path}");
    }
    assert_eq!(word(bed.put(&format!("/data/new/{}/x", "n".repeat(256)), None, "").await), PATH);
    bed.put(&format!("/data/{}", "n".repeat(255)), None, "").await.unwrap();
    bed.put("/data/...", None, "dots").await.unwrap();
    assert_eq!(bed.get("/./data//./...").await.unwrap(), b"dots");
}

#[tokio::test]
async fn a_directory_is_no_file_and_a_file_no_directory() {
    let bed = Bed::make().await;
    bed.put("/data/dir/f", None, "1").await.unwrap();
    for path in ["/data/dir", "/data", "/tmp/"] {
        assert_eq!(word(bed.get(path).await), KIND, "{path}");
        assert_eq!(word(bed.put(path, None, "x").await), KIND, "{path}");
        assert_eq!(word(bed.put(path, Some(WriteAt::End), "x").await), KIND, "{path}");
    }
    assert_eq!(word(bed.get("/data/dir/f/g").await), KIND);
    assert_eq!(word(bed.put("/data/dir/f/g/h", None, "x").await), KIND);
    assert_eq!(word(bed.list("/data/dir/f").await), KIND);
    assert_eq!(word(bed.get("/data/none").await), "not found");
    assert_eq!(word(bed.get("/data/di").await), "not found");
    assert_eq!(word(bed.list("/data/none").await), "not found");
}

#[tokio::test]
async fn a_full_disk_takes_no_more_and_keeps_what_it_has() {
    let bed = Bed::make().await;
    let last = MAX_DISK_BYTES - 1;
    bed.put("/data/f", Some(WriteAt::Offset(last)), "x").await.unwrap();
    for at in [Some(WriteAt::End), Some(WriteAt::Offset(MAX_DISK_BYTES)), Some(WriteAt::Offset(u64::MAX))] {
        assert_eq!(word(bed.put("/data/f", at, "y").await), "no space");
    }
    assert_eq!(word(bed.put("/tmp/g", None, "y").await), "no space");
    assert_eq!(word(bed.get("/tmp/g").await), "not found");
    bed.put("/data/f", Some(WriteAt::Offset(last)), "z").await.unwrap();
    let end = bed.provider.read_file(&bed.agent, "/data/f", last - 1, 9).await.unwrap();
    assert_eq!((end.size, &*end.data), (MAX_DISK_BYTES, b"\0z".as_slice()));
    bed.put("/data/f", None, "small").await.unwrap();
    bed.put("/tmp/g", None, "y").await.unwrap();
}

#[tokio::test]
async fn there_are_only_as_many_files_as_the_index_can_name() {
    let bed = Bed::make().await;
    let folder = "/data".to_owned() + &format!("/{}", "n".repeat(250)).repeat(15);
    let mut made = 0;
    let refused = loop {
        assert!(made < 100);
        match bed.put(&format!("{folder}/{made}"), None, "x").await {
            Ok(()) => made += 1,
            refused => break word(refused),
        }
    };
    assert_eq!(refused, "no space");
    assert!(made > 70, "{made}");
    assert_eq!(bed.list(&folder).await.unwrap().len(), made);
    bed.put(&format!("{folder}/0"), None, "y").await.unwrap();
}

#[tokio::test]
async fn writers_at_once_lose_nothing() {
    let bed = Arc::new(Bed::make().await);
    let writers = (0..20_u8).map(|number| {
        let bed = bed.clone();
        tokio::spawn(async move {
            bed.put("/data/log", Some(WriteAt::End), [number; 3]).await.unwrap();
            bed.put(&format!("/data/own/{number}"), None, [number]).await.unwrap();
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let log = bed.get("/data/log").await.unwrap();
    let mut writers: Vec<u8> =
        log.chunks(3).map(|chunk| chunk.iter().all(|byte| *byte == chunk[0]).then_some(chunk[0]).unwrap()).collect();
    writers.sort_unstable();
    assert_eq!(writers, (0..20).collect::<Vec<u8>>());
    assert_eq!(bed.list("/data/own").await.unwrap().len(), 20);
    let (there, held) = bed.pieces();
    assert_eq!(there, held);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_not_done_twice() {
    let bed = Bed::make().await;
    bed.disk.lost_answers.store(1, Ordering::SeqCst);
    bed.put("/data/log", Some(WriteAt::End), "once").await.unwrap();
    assert_eq!(bed.get("/data/log").await.unwrap(), b"once");
}

#[tokio::test]
async fn creating_again_adopts_the_sandbox_with_the_environment_of_now() {
    let bed = Bed::make().await;
    bed.put("/data/f", None, "kept").await.unwrap();
    let shown = |output: ExecOutput| String::from_utf8(output.stdout.to_vec()).unwrap();
    let code = "# theazo:env THEAZO_AGENT_ID\n# theazo:env THEAZO_SESSION_ID\n# theazo:env KEY\n# theazo:env NEW";
    assert_eq!(shown(bed.exec(code).await.unwrap()), "agt_1\nses_1\n[secret:KEY]\n\n");
    bed.provider.create(&spec(HOUR), &environment(&["NEW"])).await.unwrap();
    assert_eq!(shown(bed.exec(code).await.unwrap()), "\n\n\n[secret:NEW]\n");
    assert_eq!(bed.get("/data/f").await.unwrap(), b"kept");
    let index = bed.disk.index("agt_1").await.unwrap().unwrap().bytes;
    assert!(!String::from_utf8(index).unwrap().contains("value of the vault"));
}

#[tokio::test]
async fn a_sandbox_ends_with_its_time_and_its_disk_a_year_later() {
    let bed = Bed::make().await;
    bed.put("/data/f", None, "x").await.unwrap();
    let expected = now_ms() + (366 * 24 + 1) * 3600 * 1000;
    bed.disk.with("agt_1", |kept| {
        assert!(kept.gone_by_ms.len() >= 3);
        assert!(kept.gone_by_ms.iter().all(|gone_by| (gone_by - expected).abs() < 60_000), "{:?}", kept.gone_by_ms);
    });
    bed.provider.create(&spec(Duration::ZERO), &Environment::default()).await.unwrap();
    assert_eq!(word(bed.get("/data/f").await), "gone");
    assert_eq!(word(bed.put("/data/f", None, "x").await), "gone");
    assert_eq!(word(bed.list("/data").await), "gone");
    assert_eq!(word(bed.exec("").await), "gone");
}

#[tokio::test]
async fn a_stopped_sandbox_keeps_the_files_beneath_data_and_takes_no_calls_until_it_is_resumed() {
    let bed = Bed::make().await;
    bed.put("/data/a/f", None, "12345").await.unwrap();
    bed.put("/tmp/f", None, "lost").await.unwrap();
    for _ in 0..2 {
        assert_eq!(bed.provider.stop(&bed.agent).await.unwrap().bytes, Some(5));
        assert_eq!(word(bed.get("/data/a/f").await), "gone");
        assert_eq!(word(bed.put("/data/a/f", None, "x").await), "gone");
        assert_eq!(word(bed.exec("").await), "gone");
    }
    bed.disk.with("agt_1", |kept| assert_eq!(kept.pieces.len(), 1, "what lay in /tmp is gone"));
    bed.provider.resume(&spec(HOUR), &environment(&["NEW"])).await.unwrap();
    assert_eq!(bed.get("/data/a/f").await.unwrap(), b"12345");
    assert!(bed.get("/tmp/f").await.is_err());
    let shown = bed.exec("# theazo:env KEY\n# theazo:env NEW").await.unwrap().stdout;
    assert_eq!(shown, "\n[secret:NEW]\n");
    bed.provider.destroy(&bed.agent).await.unwrap();
    assert!(matches!(bed.provider.stop(&bed.agent).await, Err(ProviderError::SandboxGone)));
    assert!(matches!(bed.provider.resume(&spec(HOUR), &environment(&[])).await, Err(ProviderError::SandboxGone)));
    assert!(bed.disk.agents.lock().unwrap().values().all(|kept| kept.index.is_none()), "nothing is made anew");
}

#[tokio::test]
async fn a_port_is_told_of_a_sandbox_that_runs_and_of_no_other() {
    let bed = Bed::make().await;
    let open = |port| bed.provider.open_port(&bed.agent, port);
    let (way, again, other) = (open(80).await, open(80).await, open(81).await);
    let shown = |way: Result<OpenPort, ProviderError>| {
        let OpenPort { url, headers } = way.unwrap_or_else(|error| panic!("{error}"));
        (url, headers[0].1.to_string())
    };
    let (way, again, other) = (shown(way), shown(again), shown(other));
    assert!(way == again && way.0 != other.0 && way.1 != other.1, "{way:?} {other:?}");
    assert!(way.0.starts_with("https://80-agt-") && way.0.ends_with(".ports.simulated.invalid/"), "{}", way.0);
    bed.provider.stop(&bed.agent).await.unwrap();
    assert!(matches!(open(80).await, Err(ProviderError::SandboxGone)));
}

#[tokio::test]
async fn destroying_leaves_nothing_and_may_be_repeated() {
    let bed = Bed::make().await;
    bed.put("/data/f", None, "x").await.unwrap();
    for _ in 0..2 {
        bed.provider.destroy(&bed.agent).await.unwrap();
        assert!(bed.disk.agents.lock().unwrap().is_empty());
    }
    assert_eq!(word(bed.put("/data/f", None, "x").await), "gone");
    assert_eq!(word(bed.get("/data/f").await), "gone");
    assert!(bed.provider.health().await.healthy);
    assert!(bed.provider.list_mine().await.is_err(), "an empty list would say that all sandboxes are lost");
}

//! The promises about running code and about files.

use crate::bed::{Bed, CAP, request};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use theazo_providers::{ExecRequest, Language, OutputPiece, OutputStream, OutputWatch, ProviderError, WriteAt};
use tokio::sync::mpsc::UnboundedReceiver;

crate::promises! { "behaviour":
    Processes exit_codes_and_both_streams_come_back_byte_for_byte;
    Processes standard_input_arrives_whole_and_need_not_be_read;
    Processes code_of_a_mebibyte_runs_and_works_in_data;
    Processes a_timeout_ends_the_whole_tree_also_what_has_left_its_session;
    Processes what_was_left_in_the_background_runs_on;
    Processes output_beyond_the_cap_is_cut_and_marked;
    Processes output_is_told_while_code_runs_and_is_all_in_the_answer;
    Processes a_watch_ends_with_a_sandbox_that_goes_in_the_middle;
    Nothing whoever_watches_is_told_everything_once_and_then_that_it_is_over;
    Processes what_runs_cannot_write_into_the_answer_of_whatever_runs_it;
    Processes twenty_at_once_all_come_to_their_end;
    Nothing files_are_byte_exact_in_pieces_and_under_odd_names;
    Processes a_file_of_64_mib_comes_back_as_it_was_written;
    Nothing a_path_that_leads_out_is_refused;
    Processes a_link_that_leads_out_is_refused;
    Nothing what_is_not_there_or_of_another_kind_is_told_apart;
    Nothing a_directory_lists_names_sizes_and_kinds;
}

async fn exit_codes_and_both_streams_come_back_byte_for_byte(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let code = "import sys; sys.stdout.buffer.write(bytes(range(256))); sys.stderr.write('err'); sys.exit(7)";
    let output = bed.run(&agent, Language::Python, code).await;
    assert_eq!(output.stdout, (0..=255).collect::<Vec<u8>>());
    assert_eq!((output.stderr.as_ref(), output.exit_code, output.timed_out), (&b"err"[..], 7, false));
    assert_eq!(bed.run(&agent, Language::Bash, "kill -KILL $$").await.exit_code, 137);
    assert_eq!(bed.run(&agent, Language::Node, "process.exit(3)").await.exit_code, 3);
    bed.destroy(&agent).await;
}

async fn standard_input_arrives_whole_and_need_not_be_read(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let stdin = Bytes::from(vec![b'z'; 2 * 1024 * 1024]);
    let counted = ExecRequest { stdin: stdin.clone(), ..request(Language::Bash, "wc -c") };
    assert_eq!(bed.provider.exec(&agent, counted).await.unwrap().stdout, "2097152\n");
    let ignored = ExecRequest { stdin, ..request(Language::Bash, "echo done") };
    assert_eq!(bed.provider.exec(&agent, ignored).await.unwrap().stdout, "done\n");
    assert_eq!(bed.bash(&agent, "wc -c").await, "0\n");
    bed.destroy(&agent).await;
}

async fn code_of_a_mebibyte_runs_and_works_in_data(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let code = format!("#{}\nimport os; print(os.getcwd(), 'ü', end='')", "x".repeat(1024 * 1024 - 100));
    assert_eq!(bed.run(&agent, Language::Python, &code).await.stdout, "/data ü");
    assert_ne!(bed.bash(&agent, "id -u").await.trim(), "0", "not as root");
    bed.destroy(&agent).await;
}

async fn a_timeout_ends_the_whole_tree_also_what_has_left_its_session(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let code = "setsid bash -c 'trap \"\" TERM; (setsid sleep 300.25 &); sleep 300.25' & (sleep 300.25 &); echo begun; sleep 300.25";
    let slow = ExecRequest { timeout: Duration::from_millis(1500), ..request(Language::Bash, code) };
    let begun = Instant::now();
    let output = bed.provider.exec(&agent, slow).await.unwrap();
    assert!(output.timed_out && output.exit_code == 124, "{}", output.exit_code);
    assert_eq!(output.stdout, "begun\n");
    assert!(begun.elapsed() < Duration::from_secs(20));
    // The pattern does not match the search itself.
    let left = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '300[.]25' || true";
    assert_eq!(bed.bash(&agent, left).await, "0\n");
    bed.destroy(&agent).await;
}

async fn what_was_left_in_the_background_runs_on(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let begun = Instant::now();
    bed.bash(&agent, "(while sleep 0.1; do date +%N > /data/alive; done) & echo started").await;
    assert!(begun.elapsed() < Duration::from_secs(20), "it is not waited for");
    let changes = "a=$(cat /data/alive); for i in $(seq 100); do sleep 0.1; b=$(cat /data/alive)
        [ -n \"$b\" ] && [ \"$a\" != \"$b\" ] && echo alive && exit; done";
    assert_eq!(bed.bash(&agent, changes).await, "alive\n");
    bed.destroy(&agent).await;
}

async fn output_beyond_the_cap_is_cut_and_marked(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let output = bed.run(&agent, Language::Bash, "head -c 3000000 /dev/zero | tr '\\0' x; echo short >&2").await;
    assert_eq!((output.stdout.len(), output.stdout_truncated), (CAP, true));
    assert_eq!((output.stderr.as_ref(), output.stderr_truncated), (&b"short\n"[..], false));
    bed.destroy(&agent).await;
}

/// All that a watch is told of each stream.
async fn told(mut pieces: UnboundedReceiver<OutputPiece>) -> [Vec<u8>; 2] {
    let [mut stdout, mut stderr] = [Vec::new(), Vec::new()];
    while let Some(OutputPiece { stream, bytes }) = pieces.recv().await {
        match stream {
            OutputStream::Stdout => stdout.extend_from_slice(&bytes),
            OutputStream::Stderr => stderr.extend_from_slice(&bytes),
        }
    }
    [stdout, stderr]
}

async fn output_is_told_while_code_runs_and_is_all_in_the_answer(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let (watch, mut pieces) = OutputWatch::new();
    // It goes on once somebody who was told of its beginning says so.
    let code = "echo begun; while [ ! -e /data/go ]; do sleep 0.05; done
        head -c 3000000 /dev/zero | tr '\\0' x; printf 'bad \\xff' >&2; exit 3";
    let request = ExecRequest { watch: Some(watch), ..request(Language::Bash, code) };
    let running = tokio::spawn({
        let (bed, agent) = (bed.clone(), agent.clone());
        async move { bed.provider.exec(&agent, request).await.unwrap() }
    });
    let first = tokio::time::timeout(Duration::from_secs(30), pieces.recv()).await.expect("nothing was told").unwrap();
    assert_eq!((first.stream, first.bytes.as_ref()), (OutputStream::Stdout, &b"begun\n"[..]));
    assert!(!running.is_finished());
    bed.write(&agent, "/data/go", b"").await.unwrap();
    let [rest, stderr] = told(pieces).await;
    let output = running.await.unwrap();
    assert_eq!((output.exit_code, output.stdout.len(), output.stdout_truncated), (3, CAP, true));
    assert!([&b"begun\n"[..], &rest].concat() == output.stdout, "{}", rest.len());
    assert_eq!((stderr.as_slice(), output.stderr.as_ref()), (&b"bad \xff"[..], &b"bad \xff"[..]));

    // A time limit takes nothing of it away.
    let (watch, pieces) = OutputWatch::new();
    let timeout = Duration::from_millis(1500);
    let slow = ExecRequest { watch: Some(watch), timeout, ..self::request(Language::Bash, "echo partial; sleep 300") };
    let output = bed.provider.exec(&agent, slow).await.unwrap();
    assert!(output.timed_out && output.stdout == "partial\n");
    assert_eq!(told(pieces).await, [b"partial\n".to_vec(), Vec::new()]);
    bed.destroy(&agent).await;
}

async fn a_watch_ends_with_a_sandbox_that_goes_in_the_middle(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let (watch, mut pieces) = OutputWatch::new();
    let request = ExecRequest { watch: Some(watch), ..request(Language::Bash, "echo begun; sleep 300; echo late") };
    let running = tokio::spawn({
        let (bed, agent) = (bed.clone(), agent.clone());
        async move { bed.provider.exec(&agent, request).await }
    });
    let first = tokio::time::timeout(Duration::from_secs(30), pieces.recv()).await.expect("nothing was told").unwrap();
    assert_eq!(first.bytes, "begun\n");
    bed.destroy(&agent).await;
    let rest = tokio::time::timeout(Duration::from_secs(50), told(pieces)).await.expect("it is told on");
    assert!(rest.iter().all(Vec::is_empty), "it said something more");
    assert!(running.await.unwrap().is_err());
}

async fn whoever_watches_is_told_everything_once_and_then_that_it_is_over(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let code = "# theazo:stdout out\n# theazo:stderr err\n# theazo:exit 4\necho out; echo err >&2; exit 4";
    let (watch, pieces) = OutputWatch::new();
    let watched = ExecRequest { watch: Some(watch), ..request(Language::Bash, code) };
    let output = bed.provider.exec(&agent, watched).await.unwrap();
    assert_eq!((output.stdout.as_ref(), output.stderr.as_ref(), output.exit_code), (&b"out\n"[..], &b"err\n"[..], 4));
    assert_eq!(told(pieces).await, [b"out\n".to_vec(), b"err\n".to_vec()]);
    // Nobody has to listen.
    let unheard = ExecRequest { watch: Some(OutputWatch::new().0), ..request(Language::Bash, code) };
    assert_eq!(bed.provider.exec(&agent, unheard).await.unwrap().stdout, "out\n");
    bed.destroy(&agent).await;
}

/// Writes into every output of another process that it can open, and tells what became of that of its own parent.
const FORGE: &str = "
import os
def forge(pid, fd):
    try:
        output = os.open(f'/proc/{pid}/fd/{fd}', os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        return type(error).__name__
    os.write(output, b'forged')
    return 'forged'
others = [int(pid) for pid in os.listdir('/proc') if pid.isdigit() and int(pid) != os.getpid()]
told = {pid: [forge(pid, fd) for fd in (1, 2)] for pid in others}
print(told[os.getppid()], 'forged' in str(told))";

async fn what_runs_cannot_write_into_the_answer_of_whatever_runs_it(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let honest = "['PermissionError', 'PermissionError'] False\n";
    assert_eq!(bed.run(&agent, Language::Python, FORGE).await.stdout, honest);
    let (watch, pieces) = OutputWatch::new();
    let watched = ExecRequest { watch: Some(watch), ..request(Language::Python, FORGE) };
    assert_eq!(bed.provider.exec(&agent, watched).await.unwrap().stdout, honest);
    assert_eq!(told(pieces).await, [honest.as_bytes().to_vec(), Vec::new()]);
    bed.destroy(&agent).await;
}

async fn twenty_at_once_all_come_to_their_end(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let runs = (0..20).map(|number| {
        let (bed, agent) = (bed.clone(), agent.clone());
        async move { bed.bash(&agent, &format!("sleep 0.2; echo {number}")).await }
    });
    let outputs = futures_util::future::join_all(runs).await;
    assert_eq!(outputs, (0..20).map(|number| format!("{number}\n")).collect::<Vec<_>>());
    bed.destroy(&agent).await;
}

async fn files_are_byte_exact_in_pieces_and_under_odd_names(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let path = "/data/a dir/ü 🦀 'quoted' \"name\".bin";
    let whole: Vec<u8> = (0..2_500_000_u32).map(|number| (number * 31 % 251) as u8).collect();
    let (first, rest) = whole.split_at(1_000_000);
    let (middle, last) = rest.split_at(1_000_000);
    bed.write(&agent, path, b"replaced").await.unwrap();
    bed.write(&agent, path, first).await.unwrap();
    let piece = Bytes::copy_from_slice(last);
    bed.provider.write_file(&agent, path, Some(WriteAt::Offset(2_000_000)), piece).await.unwrap();
    let piece = Bytes::copy_from_slice(middle);
    bed.provider.write_file(&agent, path, Some(WriteAt::Offset(1_000_000)), piece).await.unwrap();
    bed.provider.write_file(&agent, path, Some(WriteAt::End), Bytes::from_static(b"end")).await.unwrap();
    let piece = bed.provider.read_file(&agent, path, 999_990, 20).await.unwrap();
    assert_eq!((piece.data.as_ref(), piece.size), (&whole[999_990..1_000_010], 2_500_003));
    let read = bed.read(&agent, path).await.unwrap();
    assert!(read[..2_500_000] == whole && &read[2_500_000..] == b"end");
    assert_eq!(bed.provider.read_file(&agent, path, 9_000_000, 5).await.unwrap().data, "");
    bed.destroy(&agent).await;
}

async fn a_file_of_64_mib_comes_back_as_it_was_written(bed: Arc<Bed>) {
    const PIECE: usize = 8 * 1024 * 1024;
    let (_, agent) = bed.create(&[]).await;
    // Each piece is another, and each byte of one differs from its neighbours.
    let piece = |index: usize| -> Bytes { (0..PIECE).map(|at| (at * 131 + at / 251 + index * 17) as u8).collect() };
    for index in 0..8 {
        let written = bed.provider.write_file(&agent, "/data/large", Some(WriteAt::End), piece(index)).await;
        written.unwrap_or_else(|error| panic!("{index}: {error}"));
    }
    for index in (0..8).rev() {
        let (offset, length) = ((index * PIECE) as u64, PIECE as u64);
        let read = bed.provider.read_file(&agent, "/data/large", offset, length).await.unwrap();
        assert!(read.size == 8 * PIECE as u64 && read.data == piece(index), "{index}");
    }
    bed.destroy(&agent).await;
}

async fn a_path_that_leads_out_is_refused(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    for path in ["/etc/passwd", "/data/../etc/passwd", "data/x", "/", "/tmp/../run/theazo/env/env", "/run/agent/env"] {
        assert!(matches!(bed.read(&agent, path).await, Err(ProviderError::PathOutside)), "{path}");
        assert!(matches!(bed.write(&agent, path, b"x").await, Err(ProviderError::PathOutside)), "{path}");
        let listed = bed.provider.list_files(&agent, path).await;
        assert!(matches!(listed, Err(ProviderError::PathOutside)), "{path}");
    }
    for path in ["/data/a\0b".to_owned(), format!("/data/{}", "x".repeat(300)), format!("/data/{}", "x/".repeat(3000))]
    {
        assert!(matches!(bed.write(&agent, &path, b"x").await, Err(ProviderError::PathUnusable(_))), "{}", path.len());
    }
    bed.destroy(&agent).await;
}

async fn a_link_that_leads_out_is_refused(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[("API_TOKEN", "not through a file")]).await;
    let links = "cd /data; ln -s /etc/passwd file; ln -s /etc dir; ln -s ../run run; ln -s inner good; echo in > inner";
    bed.bash(&agent, links).await;
    for path in ["/data/file", "/data/dir/passwd", "/data/run/theazo/env/env", "/data/run/agent/env"] {
        assert!(matches!(bed.read(&agent, path).await, Err(ProviderError::PathOutside)), "{path}");
        assert!(matches!(bed.write(&agent, path, b"x").await, Err(ProviderError::PathOutside)), "{path}");
    }
    assert_eq!(bed.read(&agent, "/data/good").await.unwrap(), b"in\n");
    bed.destroy(&agent).await;
}

async fn what_is_not_there_or_of_another_kind_is_told_apart(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    bed.write(&agent, "/data/dir/file", b"x").await.unwrap();
    assert!(matches!(bed.read(&agent, "/data/nothing").await, Err(ProviderError::FileNotFound)));
    assert!(matches!(bed.read(&agent, "/data/dir").await, Err(ProviderError::PathUnusable(_))));
    assert!(matches!(bed.write(&agent, "/data/dir", b"x").await, Err(ProviderError::PathUnusable(_))));
    assert!(matches!(bed.write(&agent, "/data/dir/file/x", b"x").await, Err(ProviderError::PathUnusable(_))));
    let listed = bed.provider.list_files(&agent, "/data/dir/file").await;
    assert!(matches!(listed, Err(ProviderError::PathUnusable(_))));
    let listed = bed.provider.list_files(&agent, "/data/nothing").await;
    assert!(matches!(listed, Err(ProviderError::FileNotFound)));
    bed.destroy(&agent).await;
}

async fn a_directory_lists_names_sizes_and_kinds(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    for (path, data) in [("/data/b", "four"), ("/data/a ü", ""), ("/data/dir/inner", "x")] {
        bed.write(&agent, path, data.as_bytes()).await.unwrap();
    }
    let entries = bed.provider.list_files(&agent, "/data").await.unwrap();
    let shown: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.directory)).collect();
    assert_eq!(shown, [("a ü", false), ("b", false), ("dir", true)]);
    assert_eq!((entries[0].size, entries[1].size), (0, 4));
    assert!(entries.iter().all(|entry| entry.modified_ms > 1_600_000_000_000));
    bed.destroy(&agent).await;
}

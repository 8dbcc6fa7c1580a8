//! The rule of `files`, on a directory of each test's own.

use super::*;
use rustix::fs::mknodat;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

struct Sandbox {
    root: PathBuf,
    place: Place,
}

impl Sandbox {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("theazo-files-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(name);
        for dir in ["data", "tmp", "run"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        Self { place: Place::beneath(&root), root }
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), Refusal> {
        write(&self.place, path, None, bytes)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, Refusal> {
        read(&self.place, path, 0, u64::MAX).map(|piece| piece.bytes)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.root).unwrap();
    }
}

#[test]
fn what_is_written_is_read_back_and_listed_whatever_its_name() {
    let sandbox = Sandbox::new();
    let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for path in ["/data/a/b c/Ünï 文.bin", "/tmp//x/./y\n\"z"] {
        sandbox.write(path, &content).unwrap();
        assert_eq!(sandbox.read(path).unwrap(), content);
    }
    let listed = list(&sandbox.place, "/data/a/b c/").unwrap();
    assert_eq!(listed.len(), 1, "the temporary file is gone");
    assert_eq!((listed[0].name.as_str(), listed[0].size, listed[0].directory), ("Ünï 文.bin", 100_000, false));
    assert!(listed[0].modified_ms > 1_600_000_000_000);
    assert!(list(&sandbox.place, "/data").unwrap()[0].directory);
    assert_eq!(list(&sandbox.place, "/tmp").unwrap().len(), 1);
}

#[test]
fn pieces_land_where_they_were_sent() {
    let sandbox = Sandbox::new();
    let put = |at, bytes: &[u8]| write(&sandbox.place, "/data/f", Some(at), bytes).unwrap();
    put(WriteAt::End, b"abc");
    put(WriteAt::End, b"def");
    put(WriteAt::Offset(1), b"X");
    put(WriteAt::Offset(8), b"Z");
    assert_eq!(sandbox.read("/data/f").unwrap(), b"aXcdef\0\0Z");
    let piece = read(&sandbox.place, "/data/f", 3, 2).unwrap();
    assert_eq!((piece.size, piece.bytes.as_slice()), (9, b"de".as_slice()));
    assert!(read(&sandbox.place, "/data/f", 100, 2).unwrap().bytes.is_empty());
    assert_eq!(write(&sandbox.place, "/data/f", Some(WriteAt::Offset(u64::MAX)), b"x"), Err(Refusal::Os(22)));
}

#[test]
fn paths_outside_the_roots_are_refused() {
    let sandbox = Sandbox::new();
    for path in ["/", "", "data/x", "/etc/passwd", "/data/../run/env", "/data/a/../b", "/datax/y", "/run/agent/env"] {
        assert_eq!(sandbox.read(path), Err(Refusal::OutsideRoots), "{path}");
        assert_eq!(sandbox.write(path, b""), Err(Refusal::OutsideRoots), "{path}");
        assert_eq!(list(&sandbox.place, path), Err(Refusal::OutsideRoots), "{path}");
    }
    assert_eq!(sandbox.read("/data/a\0b"), Err(Refusal::BadPath));
    assert_eq!(sandbox.read(&format!("/data/{}", "n".repeat(300))), Err(Refusal::BadPath));
    assert_eq!(sandbox.read(&format!("/data/{}", "n/".repeat(3000))), Err(Refusal::BadPath));
}

#[test]
fn a_link_that_leads_out_is_refused_for_every_operation() {
    let sandbox = Sandbox::new();
    let secret = sandbox.root.join("run/env");
    std::fs::write(&secret, "K=V\0").unwrap();
    let data = sandbox.root.join("data");
    symlink(&secret, data.join("absolute")).unwrap();
    symlink("../run/env", data.join("relative")).unwrap();
    symlink("../run", data.join("dir")).unwrap();
    symlink("/proc/self/root", data.join("magic")).unwrap();
    for path in ["/data/absolute", "/data/relative", "/data/dir/env", "/data/magic/etc/passwd"] {
        assert_eq!(sandbox.read(path), Err(Refusal::OutsideRoots), "{path}");
        assert_eq!(sandbox.write(path, b"x"), Err(Refusal::OutsideRoots), "{path}");
        let appended = write(&sandbox.place, path, Some(WriteAt::End), b"x");
        assert_eq!(appended, Err(Refusal::OutsideRoots), "{path}");
    }
    assert_eq!(sandbox.write("/data/dir/new/file", b"x"), Err(Refusal::OutsideRoots));
    assert_eq!(list(&sandbox.place, "/data/dir"), Err(Refusal::OutsideRoots));
    assert_eq!(std::fs::read(&secret).unwrap(), b"K=V\0");
    assert!(!sandbox.root.join("run/new").exists());
}

#[test]
fn a_link_that_stays_beneath_is_followed() {
    let sandbox = Sandbox::new();
    sandbox.write("/data/real/f", b"1").unwrap();
    std::fs::create_dir(sandbox.root.join("data/other")).unwrap();
    symlink("../real", sandbox.root.join("data/other/link")).unwrap();
    assert_eq!(sandbox.read("/data/other/link/f").unwrap(), b"1");
    sandbox.write("/data/other/link/deep/g", b"2").unwrap();
    assert_eq!(sandbox.read("/data/real/deep/g").unwrap(), b"2");
}

#[test]
fn a_fifo_or_a_directory_is_the_wrong_kind_and_never_hangs() {
    let sandbox = Sandbox::new();
    let data = open(sandbox.root.join("data"), OFlags::PATH, Mode::empty()).unwrap();
    mknodat(&data, "fifo", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    sandbox.write("/data/dir/f", b"").unwrap();
    for path in ["/data/fifo", "/data/dir", "/data"] {
        assert_eq!(sandbox.read(path).err(), Some(Refusal::WrongKind), "{path}");
        assert_eq!(sandbox.write(path, b"x"), Err(Refusal::WrongKind), "{path}");
        assert_eq!(write(&sandbox.place, path, Some(WriteAt::End), b"x"), Err(Refusal::WrongKind), "{path}");
    }
    assert_eq!(sandbox.read("/data/dir/f/g").err(), Some(Refusal::WrongKind));
    assert_eq!(list(&sandbox.place, "/data/dir/f"), Err(Refusal::WrongKind));
    assert_eq!(sandbox.read("/data/none").err(), Some(Refusal::NotFound));
    assert_eq!(list(&sandbox.place, "/data/none"), Err(Refusal::NotFound));
}

#[test]
fn replacing_a_file_keeps_its_permissions() {
    let sandbox = Sandbox::new();
    sandbox.write("/data/run.sh", b"a").unwrap();
    let path = sandbox.root.join("data/run.sh");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.write("/data/run.sh", b"b").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(sandbox.read("/data/run.sh").unwrap(), b"b");
}

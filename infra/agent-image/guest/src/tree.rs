//! Ending processes. Owns the walk over `/proc` and the rule that nothing is left: stop everything first, so
//! that nothing forks away from the list, then kill, then look again.
//!
//! The guest is the subreaper of what it starts, so a process that left its session and lost its parents is
//! still its descendant (double fork and setsid were tried: none is left).

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long to go on before giving up on processes that the kernel does not let die.
const PATIENCE: Duration = Duration::from_secs(10);

struct Process {
    pid: i32,
    parent: i32,
}

/// One ended child, if there is one; never waits.
pub fn reap() -> Option<(Pid, WaitStatus)> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(ended) => return ended,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// Ends every descendant of this process and reaps them. False if some could not be ended in time.
pub fn end_descendants() -> bool {
    let me = own_pid();
    end(|| descendants(&processes(), me))
}

/// Ends every process of a user except this one. False if some could not be ended in time.
pub fn end_user(uid: u32) -> bool {
    let me = own_pid();
    end(|| {
        let all = processes().into_iter().filter(|process| process.pid != me && uid_of(process.pid) == Some(uid));
        all.map(|process| process.pid).collect()
    })
}

fn end(victims: impl Fn() -> HashSet<i32>) -> bool {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut stopped = HashSet::new();
        loop {
            let found = victims();
            let before = stopped.len();
            for pid in found {
                if stopped.insert(pid) {
                    signal(pid, Signal::STOP);
                }
            }
            if stopped.len() == before || Instant::now() >= until {
                break;
            }
        }
        for pid in &stopped {
            signal(*pid, Signal::KILL);
        }
        while reap().is_some() {}
        if stopped.is_empty() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_pid()
}

fn descendants(all: &[Process], root: i32) -> HashSet<i32> {
    let mut found = HashSet::from([root]);
    loop {
        let before = found.len();
        for process in all {
            if found.contains(&process.parent) {
                found.insert(process.pid);
            }
        }
        if found.len() == before {
            break;
        }
    }
    found.remove(&root);
    found
}

/// Every process that still runs; one that has ended and only waits to be reaped is left out.
fn processes() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| parse_stat(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// The program's name in the middle may hold anything, parentheses too, so fields count from its last one.
fn parse_stat(pid: i32, stat: &[u8]) -> Option<Process> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat.get(name_end + 1..)?.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let state = fields.next()?;
    let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    (!matches!(state, b"Z" | b"X" | b"x")).then_some(Process { pid, parent })
}

/// The real user. The owner of `/proc/PID` will not do: it is root for a process that hides its memory.
fn uid_of(pid: i32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_named_like_a_stat_line_is_still_read_right() {
        let process = parse_stat(7, b"7 (a) R 1 (x) S 42 7 7 0 -1").unwrap();
        assert_eq!((process.pid, process.parent), (7, 42));
        assert!(parse_stat(7, b"7 (gone) Z 42 7").is_none());
        assert!(parse_stat(7, b"").is_none());
    }

    #[test]
    fn descendants_are_found_whatever_the_order_and_the_root_is_not_among_them() {
        let tree: Vec<Process> =
            [(5, 4), (4, 3), (3, 1), (9, 1)].into_iter().map(|(pid, parent)| Process { pid, parent }).collect();
        assert_eq!(descendants(&tree, 3), HashSet::from([4, 5]));
    }
}

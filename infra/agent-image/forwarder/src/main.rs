//! The program, see the library: it says where it listens, and ends in time.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use theazo_forwarder::{Admission, Proxy, Routes, Way};
use theazo_guest_protocol::forwarder::{EVERYWHERE, LOOPBACK};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// How often it is looked whether the bridge is there.
const TICK: Duration = Duration::from_secs(2);

/// Who can connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listen {
    Loopback,
    Everywhere,
}

struct Settings {
    listen: Listen,
    way: Way,
    admission: Admission,
    until: SystemTime,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(settings) = parse(&arguments) else {
        complain("usage: theazo-forwarder loopback|everywhere ADDRESS:PORT BRIDGE DIGEST UNIX-SECONDS");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(run(settings))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("theazo-forwarder: {error}"));
            ExitCode::from(1)
        }
    }
}

fn parse(arguments: &[String]) -> Option<Settings> {
    let [listen, to, bridge, digest, until] = arguments else { return None };
    let listen = match listen.as_str() {
        LOOPBACK => Listen::Loopback,
        EVERYWHERE => Listen::Everywhere,
        _ => return None,
    };
    let until = UNIX_EPOCH.checked_add(Duration::from_secs(until.parse().ok()?))?;
    let (way, admission) = (Way::new(to.parse().ok()?, bridge)?, Admission::parse(digest)?);
    Some(Settings { listen, way, admission, until })
}

/// Forwards until the time is over, the bridge is gone, or it is told to end.
async fn run(settings: Settings) -> io::Result<()> {
    let Settings { listen, way, admission, until } = settings;
    // Before anything is promised: there may be no such bridge, or no right to be bound to it.
    way.try_out()?;
    let listener = bind(listen).await?;
    let mut out = io::stdout();
    writeln!(out, "{}", listener.local_addr()?.port())?;
    out.flush()?;
    let left = until.duration_since(SystemTime::now()).unwrap_or_default();
    let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let gone = async {
        while way.is_there() {
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::select! {
        () = Proxy::new(Routes::new([(admission, way.clone())])).serve(listener) => {}
        () = tokio::time::sleep(left) => {}
        () = gone => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(())
}

async fn bind(listen: Listen) -> io::Result<TcpListener> {
    match listen {
        Listen::Loopback => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await,
        // Both families, by Linux's default for this address, where there are two.
        Listen::Everywhere => match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).await,
        },
    }
}

/// Says something on standard error, where the host's owner sees it.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_arguments_that_say_everything_are_taken() {
        let digest = "a".repeat(64);
        let good = ["loopback", "10.213.0.2:3000", "ag-00000000", &digest, "1800000000"];
        let parsed = |arguments: &[&str]| parse(&arguments.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
        assert!(parsed(&good).is_some_and(|settings| settings.listen == Listen::Loopback));
        for (place, bad) in [
            (0, "nowhere"),
            (1, "10.213.0.2"),
            (1, "[::1]:3000"),
            (1, "agent:3000"),
            (1, "10.213.0.2:0"),
            (2, ""),
            (2, "longer-than-a-name"),
            (3, "aa"),
            (3, "not hex"),
            (4, "soon"),
            (4, "-1"),
        ] {
            let mut arguments = good;
            arguments[place] = bad;
            assert!(parsed(&arguments).is_none(), "{bad}");
        }
        assert!(parsed(&good[..4]).is_none() && parsed(&[]).is_none());
    }
}

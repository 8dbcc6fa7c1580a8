//! Agents that try what they can reach.

use bytes::Bytes;
use std::net::Ipv4Addr;
use std::time::Duration;
use theazo_providers::{
    AgentRef, Environment, ExecRequest, Language, Provider, ProviderError, ProviderKind, SandboxSpec,
};

/// Where a probe keeps a file.
const FILE: &str = "/data/probe";
/// How long one may live that was left.
const LIFE: Duration = Duration::from_secs(120);
/// How long one of its programs may take.
const RUNS_WITHIN: Duration = Duration::from_secs(20);
const OUTPUT_CAP: usize = 16 * 1024;

/// Prints the own address and the default gateway.
const ADDRESSES: &str = "import socket, struct
routes = [line.split() for line in open('/proc/net/route')][1:]
gateway = [socket.inet_ntoa(struct.pack('<L', int(r[2], 16))) for r in routes if r[1] == '00000000'][0]
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect((gateway, 9))
print(probe.getsockname()[0], gateway)";

/// Has a process listen that stays, and returns when it does.
const LISTEN: &str = "import socket, subprocess, sys, time
code = 'import socket; s = socket.create_server((\"0.0.0.0\", %d))\\nwhile True: s.accept()[0].close()' % port
subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                 stderr=subprocess.DEVNULL, start_new_session=True)
for _ in range(100):
    try:
        socket.create_connection(('127.0.0.1', port), timeout=1).close()
        break
    except OSError:
        time.sleep(0.1)
else:
    sys.exit(1)";

/// Where the program of [`CONNECT`] listens itself.
const OWN: &str = "127.0.0.1:";

/// Prints which of the targets take a connection, and the first always: it is one that this program listens on itself,
/// so that a program which cannot connect at all is not taken for one that is kept from it.
const CONNECT: &str = "import socket, threading
own = socket.create_server(('127.0.0.1', 0))
targets = '127.0.0.1:%d %s' % (own.getsockname()[1], targets)
def reach(target):
    host, port = target.split(':')
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        print(target, end=' ', flush=True)
    except OSError:
        pass
threads = [threading.Thread(target=reach, args=(t,)) for t in targets.split()]
for thread in threads: thread.start()
for thread in threads: thread.join()";

/// An agent that tries what it can reach. It belongs to whatever deployment the provider was made for, which had better be
/// one that has nothing but probes: [`remove_probes`] removes all that it has.
pub struct Probe<'a> {
    provider: &'a dyn Provider,
    agent: AgentRef,
}

impl<'a> Probe<'a> {
    /// Makes one of that name, and has it keep a file, which needs more of a kernel than running programs.
    ///
    /// # Errors
    /// As [`Provider::create`], [`Provider::write_file`] and [`Provider::read_file`]; [`ProviderError::Failed`] when the file
    /// is another then.
    pub async fn start(provider: &'a dyn Provider, name: &str) -> Result<Self, ProviderError> {
        let agent = format!("agt_probe_{name}");
        let spec = SandboxSpec {
            agent: agent.clone(),
            session: "ses_probe".into(),
            platform: "plt_probe".into(),
            lifetime: LIFE,
            internet: true,
            region: None,
        };
        provider.create(&spec, &Environment::default()).await?;
        let agent = AgentRef { agent };
        provider.write_file(&agent, FILE, None, Bytes::from_static(b"probe")).await?;
        let kept = provider.read_file(&agent, FILE, 0, 16).await?;
        if kept.data != b"probe"[..] {
            return Err(unclear("the probe's file is not what was written"));
        }
        Ok(Self { provider, agent })
    }

    /// Its own address and its gateway's, which is one of the host's.
    ///
    /// # Errors
    /// [`ProviderError::Failed`] when it has none; as [`Provider::exec`].
    pub async fn addresses(&self) -> Result<(Ipv4Addr, Ipv4Addr), ProviderError> {
        let said = self.run(ADDRESSES).await?;
        let found: Result<Vec<Ipv4Addr>, _> = said.split_whitespace().map(str::parse).collect();
        match found.as_deref() {
            Ok([own, gateway]) => Ok((*own, *gateway)),
            _ => Err(unclear("the probe has no addresses")),
        }
    }

    /// Listens on a TCP port until it is removed.
    ///
    /// # Errors
    /// As [`Provider::exec`]; [`ProviderError::Failed`] when it does not come to listen.
    pub async fn listen(&self, port: u16) -> Result<(), ProviderError> {
        self.run(&format!("port = {port}\n{LISTEN}")).await.map(drop)
    }

    /// Which of these, as `address:port`, take a TCP connection from it within 2 s.
    ///
    /// # Errors
    /// As [`Provider::exec`].
    pub async fn reaches(&self, targets: &[String]) -> Result<Vec<String>, ProviderError> {
        let said = self.run(&format!("targets = {:?}\n{CONNECT}", targets.join(" "))).await?;
        let (own, mut reached): (Vec<String>, Vec<String>) =
            said.split_whitespace().map(str::to_owned).partition(|target| target.starts_with(OWN));
        if own.is_empty() {
            return Err(unclear("the probe cannot connect to anything"));
        }
        reached.sort_unstable();
        Ok(reached)
    }

    async fn run(&self, code: &str) -> Result<String, ProviderError> {
        let request = ExecRequest {
            language: Language::Python,
            code: code.into(),
            timeout: RUNS_WITHIN,
            stdin: bytes::Bytes::new(),
            output_cap: OUTPUT_CAP,
            watch: None,
        };
        let ran = self.provider.exec(&self.agent, request).await?;
        match ran.exit_code {
            0 => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
            _ => Err(unclear("a program of the probe failed")),
        }
    }
}

/// Removes all sandboxes of the deployment that the provider was made for.
///
/// # Errors
/// As [`Provider::list_mine`] and [`Provider::destroy`].
pub async fn remove_probes(provider: &dyn Provider) -> Result<(), ProviderError> {
    for probe in provider.list_mine().await? {
        provider.destroy(&AgentRef { agent: probe.agent }).await?;
    }
    Ok(())
}

fn unclear(reason: &str) -> ProviderError {
    let (provider, reason) = (ProviderKind::Docker, reason.to_owned());
    ProviderError::Failed { provider, operation: "probe", status: None, retryable: true, reason }
}

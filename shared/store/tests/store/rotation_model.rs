//! Rotation against a model: any order of users' calls, rotation steps and restores of a backup, each of which may crash
//! between any two writes. At every moment everything opens with the value that was last written; after a restore with that
//! of the backup, and what was deleted since is deleted again.

use crate::agents::new_agent;
use crate::gate::{Crash, Gate};
use crate::rotation::{LIFE, LIFE_MS, sealed_rows};
use crate::support::{Item, World, aws, credential_key, operator, own, secret, text};
use aws_sdk_dynamodb::types::AttributeValue;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use theazo_store::{
    Agent, AgentCopies, KeyRing, NewAgent, PlatformRotation, ReplayMode, Restore, Retirement, RootProgress,
    RootRotation, ScopeState, SealedSecrets, SecretNames, SecretOpener, SecretSealer, SecretSelection, SecretTarget,
    Session, StoreError, Table, now_ms,
};
use theazo_tenancy::TenantScope;
use theazo_vault::SecretValue;

const HOUR: Duration = Duration::from_secs(3600);
const NAMES: [&str; 3] = ["A", "B", "C"];
/// Orders that are tried whatever the time.
const LEAST_ORDERS: u32 = 8;

#[derive(Clone, Debug)]
enum Step {
    /// A late one goes on from what was read before, of that scope then, which others may have changed meanwhile.
    Set {
        of: usize,
        name: usize,
        value: u16,
        late: bool,
    },
    Delete {
        of: usize,
        name: usize,
        late: bool,
    },
    /// Reads what a late set or delete starts from.
    Read {
        of: usize,
    },
    Boot {
        session: usize,
    },
    List {
        of: usize,
    },
    Load {
        session: usize,
    },
    OpenLoaded,
    BeginRoot,
    AdvanceRoot,
    Wait,
    Retire,
    BeginPlatform,
    WalkPlatform,
    BackUp,
    Restore,
}

fn step() -> impl Strategy<Value = (Step, Option<Crash>)> {
    let (of, name, late) = (0..3_usize, 0..NAMES.len(), prop::bool::weighted(0.3));
    let step = prop_oneof![
        6 => (of.clone(), name.clone(), any::<u16>(), late)
            .prop_map(|(of, name, value, late)| Step::Set { of, name, value, late }),
        3 => (of.clone(), name, late).prop_map(|(of, name, late)| Step::Delete { of, name, late }),
        4 => of.clone().prop_map(|of| Step::Read { of }),
        2 => (0..2_usize).prop_map(|session| Step::Boot { session }),
        1 => of.prop_map(|of| Step::List { of }),
        2 => (0..2_usize).prop_map(|session| Step::Load { session }),
        2 => Just(Step::OpenLoaded),
        3 => Just(Step::BeginRoot),
        6 => Just(Step::AdvanceRoot),
        5 => Just(Step::Wait),
        3 => Just(Step::Retire),
        2 => Just(Step::BeginPlatform),
        4 => Just(Step::WalkPlatform),
        2 => Just(Step::BackUp),
        2 => Just(Step::Restore),
    ];
    let crash = (0..3_u32, any::<bool>()).prop_map(|(after, reaches)| Crash { after, reaches });
    (step, prop::option::weighted(0.4, crash))
}

/// A scope's values by name; the platform's scope is the last.
type Values = BTreeMap<String, String>;

/// The table at some moment, and the model at that moment.
struct Backup {
    rows: Vec<Item>,
    values: [Values; 3],
    versions: [BTreeMap<String, u64>; 3],
    agents: Vec<(Agent, Values)>,
}

/// What was read and is gone on from later, with the values there were then.
#[derive(Default)]
struct Held {
    loaded: Option<(usize, SealedSecrets, Values)>,
    read: Option<(usize, ScopeState, Values)>,
}

struct Model {
    world: World,
    gate: Gate,
    /// The table as a process sees it that may die.
    table: Table,
    scope: TenantScope,
    sessions: [Session; 2],
    values: [Values; 3],
    agents: Vec<(Agent, Values)>,
    held: Held,
    backup: Option<Backup>,
    /// By scope and name, up to which version it was deleted: the ledger's content.
    deleted: BTreeMap<(usize, String), u64>,
    /// The version that the step is about to delete.
    deleting: u64,
    /// An instance that keeps keys in memory for up to a cache life.
    warm: KeyRing,
    now_ms: i64,
}

impl Model {
    async fn start() -> Self {
        let world = World::start().await;
        let (gate, url) = Gate::start(&world.dynamodb_url).await;
        let table = Table::new(&aws(&url, &world.kms_url), "theazo").with_credential_key(credential_key());
        let scope = world.tenant().await;
        let sessions = [world.session(&scope).await, world.session(&scope).await];
        let warm = world.cold_keys(HOUR);
        let (values, agents, now_ms) = (Default::default(), Vec::new(), now_ms());
        let (held, backup, deleted, deleting) = (Held::default(), None, BTreeMap::new(), 0);
        Self { world, gate, table, scope, sessions, values, agents, held, backup, deleted, deleting, warm, now_ms }
    }

    fn target(&self, of: usize) -> SecretTarget {
        self.sessions.get(of).map_or(SecretTarget::Platform, own)
    }

    fn expected(&self, session: usize) -> Values {
        let mut all = self.values[2].clone();
        all.extend(self.values[session].clone());
        all
    }

    fn root(&self, table: &Table) -> RootRotation {
        RootRotation::new(table.clone(), ring(&self.world, table), operator(), LIFE)
    }

    fn platform(&self, table: &Table) -> PlatformRotation {
        PlatformRotation::new(table.clone(), ring(&self.world, table), operator())
    }

    async fn take(&mut self, step: &Step, crash: Option<Crash>) {
        let step = &self.aimed(step);
        self.gate.set(crash);
        let done = self.try_step(step).await;
        self.gate.set(None);
        if let Err(error) = &done {
            assert!(crash.is_some(), "{step:?}: {error:?}");
            assert!(matches!(error, StoreError::Table { code, .. } if code == "AccessDeniedException"), "{error:?}");
        }
        self.check(step, done.is_err()).await;
    }

    /// A late step is of the scope that was read.
    fn aimed(&self, step: &Step) -> Step {
        let mut step = step.clone();
        if let Step::Set { of, late: true, .. } | Step::Delete { of, late: true, .. } = &mut step {
            *of = self.held.read.as_ref().map_or(*of, |(whose, ..)| *whose);
        }
        step
    }

    async fn try_step(&mut self, step: &Step) -> Result<(), StoreError> {
        match *step {
            Step::Set { of, name, value, late } => {
                let sealer = SecretSealer::new(self.table.clone(), self.warm.clone());
                let (target, value) = (self.target(of), format!("value {value:05}"));
                let (read, _) = self.read(&sealer, of, late).await?;
                sealer.set(&self.scope, &target, read, &[secret(NAMES[name], &value)]).await?;
                self.values[of].insert(NAMES[name].into(), value);
            }
            Step::Delete { of, name, late } => {
                let versions = self.world.versions(&self.scope, &self.target(of)).await;
                self.deleting = versions.get(NAMES[name]).copied().unwrap_or(0);
                let sealer = SecretSealer::new(self.table.clone(), self.warm.clone());
                let (read, then) = self.read(&sealer, of, late).await?;
                match sealer.delete(&self.scope, &self.target(of), read, NAMES[name]).await {
                    Ok(()) => self.note_deleted(of, NAMES[name]),
                    // As if it had come when that was read.
                    Err(StoreError::NotFound) => {
                        assert!([&then, &self.values[of]].iter().any(|values| !values.contains_key(NAMES[name])));
                    }
                    Err(error) => return Err(error),
                }
            }
            Step::Read { of } if self.held.read.is_none() => {
                let sealer = SecretSealer::new(self.table.clone(), self.warm.clone());
                self.held.read = Some((of, sealer.load(&self.scope, &self.target(of)).await?, self.values[of].clone()));
            }
            // What was read stays until it is gone on from, the later the better.
            Step::Read { .. } => {}
            Step::Boot { session } if self.agents.len() < 3 => self.boot(session).await?,
            Step::Boot { .. } => {}
            Step::List { of } => {
                let names = SecretNames::new(self.table.clone()).load(&self.scope, &self.target(of)).await?;
                assert!(names.entries().map(|(name, _)| name).eq(self.values[of].keys()));
            }
            Step::Load { session } => {
                let opener = SecretOpener::new(self.table.clone(), self.warm.clone());
                let sealed = opener.load(&self.scope, &self.sessions[session].id).await?;
                self.held.loaded = Some((session, sealed, self.expected(session)));
            }
            Step::OpenLoaded => {
                let Some((session, sealed, then)) = &self.held.loaded else { return Ok(()) };
                let opener = SecretOpener::new(self.table.clone(), ring(&self.world, &self.table));
                let opened = opener.open(&self.scope, sealed, &SecretSelection::All, now_ms()).await?;
                let opened: Values = opened.into_iter().map(|one| (one.booted.name, shown(&one.value))).collect();
                assert!(opened == *then || opened == self.expected(*session));
            }
            Step::BeginRoot => drop(self.root(&self.table).begin(self.now_ms).await?),
            Step::AdvanceRoot => drop(self.root(&self.table).advance(self.now_ms).await?),
            Step::Wait => {
                self.now_ms += LIFE_MS;
                self.warm = self.world.cold_keys(HOUR);
            }
            Step::Retire => {
                let rotation = self.root(&self.table);
                let oldest = self.root(&self.world.table).status(self.now_ms).await?.versions[0].version;
                let _ = rotation.retire(oldest, Duration::ZERO, self.now_ms).await?;
            }
            Step::BeginPlatform => drop(self.platform(&self.table).begin(self.scope.platform()).await?),
            Step::WalkPlatform => drop(self.platform(&self.table).walk(self.scope.platform(), self.now_ms).await?),
            Step::BackUp => self.back_up().await,
            Step::Restore => {
                self.restore().await;
                self.replay(&self.table).await?;
            }
        }
        Ok(())
    }

    /// What a set or delete of a scope starts from, and the values there were then.
    async fn read(&mut self, sealer: &SecretSealer, of: usize, late: bool) -> Result<(ScopeState, Values), StoreError> {
        match self.held.read.take_if(|_| late) {
            Some((_, read, then)) => Ok((read, then)),
            None => Ok((sealer.load(&self.scope, &self.target(of)).await?, self.values[of].clone())),
        }
    }

    fn note_deleted(&mut self, of: usize, name: &str) {
        assert!(self.values[of].remove(name).is_some());
        self.deleted.insert((of, name.into()), self.deleting);
    }

    async fn back_up(&mut self) {
        let mut versions: [BTreeMap<String, u64>; 3] = Default::default();
        for (of, versions) in versions.iter_mut().enumerate() {
            *versions = self.world.versions(&self.scope, &self.target(of)).await;
        }
        let (rows, values, agents) = (self.world.scan().await, self.values.clone(), self.agents.clone());
        self.backup = Some(Backup { rows, values, versions, agents });
    }

    /// Puts the table back, and leaves it to the replay to bring it to what the model says here. No instance lives on.
    async fn restore(&mut self) {
        let Some(backup) = &self.backup else { return };
        self.world.put_back(&backup.rows).await;
        (self.values, self.agents) = (backup.values.clone(), backup.agents.clone());
        for (of, values) in self.values.iter_mut().enumerate() {
            values.retain(|name, _| {
                let deleted = self.deleted.get(&(of, name.clone()));
                deleted.is_none_or(|up_to| backup.versions[of][name] > *up_to)
            });
        }
        self.held = Held::default();
        self.warm = self.world.cold_keys(HOUR);
    }

    async fn replay(&self, table: &Table) -> Result<(), StoreError> {
        let replay = Restore::new(table.clone(), operator()).replay(ReplayMode::Apply, |_| ()).await?;
        assert_eq!(replay.failures, Vec::<String>::new());
        Ok(())
    }

    async fn boot(&mut self, session: usize) -> Result<(), StoreError> {
        let opener = SecretOpener::new(self.table.clone(), self.warm.clone());
        let copies = AgentCopies::new(self.table.clone(), self.warm.clone());
        let sealed = opener.load(&self.scope, &self.sessions[session].id).await?;
        let opened = opener.open(&self.scope, &sealed, &SecretSelection::All, now_ms()).await?;
        let new = NewAgent { secrets: opened.iter().map(|one| one.booted.clone()).collect(), ..new_agent() };
        let agent = theazo_store::Agents::new(self.table.clone());
        let agent = agent.begin_boot(&self.scope, &self.sessions[session], new).await?;
        let kept = copies.seal(&self.scope, &agent.id, &sealed, &opened, now_ms() + 86_400_000).await?;
        copies.keep(kept).await?;
        self.agents.push((agent, self.expected(session)));
        Ok(())
    }

    /// Everything opens with the model's value. After a crash, what the step was about is as before or as wanted.
    async fn check(&mut self, step: &Step, crashed: bool) {
        let keys = self.world.cold_keys(HOUR);
        if let (true, Step::Restore) = (crashed, step) {
            self.replay(&self.world.table).await.unwrap();
        }
        if let (true, Step::Set { of, name, .. } | Step::Delete { of, name, .. }) = (crashed, step) {
            let before = self.values[*of].get(NAMES[*name]).cloned();
            let after = match step {
                Step::Set { value, .. } => Some(format!("value {value:05}")),
                _ => None,
            };
            let found = self.find(&keys, *of, NAMES[*name]).await;
            assert!(found == before || found == after, "{step:?}: {found:?}");
            match found {
                Some(value) => drop(self.values[*of].insert(NAMES[*name].into(), value)),
                None if before.is_some() => self.note_deleted(*of, NAMES[*name]),
                None => {}
            }
        }
        let opener = SecretOpener::new(self.world.table.clone(), keys.clone());
        for session in 0..2 {
            let sealed = opener.load(&self.scope, &self.sessions[session].id).await.unwrap();
            let opened = opener.open(&self.scope, &sealed, &SecretSelection::All, now_ms()).await.unwrap();
            let opened: Values = opened.into_iter().map(|one| (one.booted.name, shown(&one.value))).collect();
            assert_eq!(opened, self.expected(session), "{step:?}");
        }
        let copies = AgentCopies::new(self.world.table.clone(), keys);
        for (agent, booted) in &self.agents {
            let sealed = copies.load(&self.scope, &agent.id).await.unwrap();
            let opened = copies.open(&self.scope, agent, &sealed).await.unwrap();
            let opened: Values = opened.iter().map(|(name, value)| (name.clone(), shown(value))).collect();
            assert_eq!(opened, *booted, "{step:?}");
        }
    }

    /// One scope's own value, if it has one of that name.
    async fn find(&self, keys: &KeyRing, of: usize, name: &str) -> Option<String> {
        let names = self.world.names().load(&self.scope, &self.target(of)).await.unwrap();
        names.get(name)?;
        let opener = SecretOpener::new(self.world.table.clone(), keys.clone());
        // The platform's own as a session sees it that has no secrets.
        let session = match self.sessions.get(of) {
            Some(session) => session.clone(),
            None => self.world.session(&self.scope).await,
        };
        let sealed = opener.load(&self.scope, &session.id).await.unwrap();
        let opened = opener.open(&self.scope, &sealed, &SecretSelection::All, now_ms()).await.unwrap();
        opened.iter().find(|one| one.booted.name == name).map(|one| shown(&one.value))
    }

    /// Whatever was begun and abandoned is finished, and then nothing is left on old keys.
    async fn finish(mut self) {
        for _ in 0..20 {
            if self.platform(&self.world.table).walk(self.scope.platform(), self.now_ms).await.unwrap().finished {
                break;
            }
        }
        for _ in 0..200 {
            match self.root(&self.world.table).advance(self.now_ms).await.unwrap() {
                RootProgress::Idle => break,
                RootProgress::Resealing { .. } | RootProgress::Finished { .. } => {}
                _ => self.now_ms += LIFE_MS,
            }
        }
        self.now_ms += 2 * LIFE_MS;
        let status = self.root(&self.world.table).status(self.now_ms).await.unwrap();
        assert_eq!((status.rotation, status.unopened, status.unreadable), (RootProgress::Idle, 0, 0));
        for version in status.versions.iter().filter(|version| !version.active) {
            assert_eq!(version.values, 0);
            let rotation = self.root(&self.world.table);
            let retired = rotation.retire(version.version, Duration::ZERO, self.now_ms).await.unwrap();
            assert_eq!(retired, Retirement::Retired);
        }
        self.warm = self.world.cold_keys(HOUR);
        self.check(&Step::Wait, false).await;
        let platform = self.world.row(&self.scope.platform_key()).await.unwrap();
        assert!(!platform.contains_key("vault_previous"));
        let active = status.versions.iter().find(|version| version.active).unwrap().version;
        for (key, (header, _)) in sealed_rows(&self.world).await {
            assert_eq!(header.root_version, active, "{key:?}");
            let current = AttributeValue::N(header.platform_key_version.to_string());
            assert_eq!(platform["vault_key_version"], current, "{key:?}");
        }
        assert_eq!(platform["id"], text(self.scope.platform().as_str()));
    }
}

/// A ring with nothing in memory, behind the same table.
fn ring(world: &World, table: &Table) -> KeyRing {
    let config = theazo_store::KeyRingConfig {
        deployment: crate::support::DEPLOYMENT.into(),
        kms_key_arn: world.kms_key_arn.clone(),
        cache_ttl: HOUR,
    };
    KeyRing::new(&aws(&world.dynamodb_url, &world.kms_url), table.clone(), config, &operator())
}

fn shown(value: &SecretValue) -> String {
    String::from_utf8(value.expose().to_vec()).unwrap()
}

#[test]
fn in_any_order_and_with_any_crash_everything_opens_and_ends_under_the_new_keys() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Who asks for a number of orders gets them all, however long that takes.
    let asked = std::env::var("THEAZO_ROUNDS").ok().map(|rounds| rounds.parse().unwrap());
    let cases: u32 = asked.unwrap_or(12);
    let config = Config { cases, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let until = Instant::now() + Duration::from_secs(15);
    let tried = AtomicU32::new(0);
    let steps = prop::collection::vec(step(), 20..50);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        // A slow machine tries fewer orders, and never fewer than this.
        if asked.is_none() && tried.load(Ordering::Relaxed) >= LEAST_ORDERS && Instant::now() > until {
            return Ok(());
        }
        tried.fetch_add(1, Ordering::Relaxed);
        runtime.block_on(async {
            let mut model = Model::start().await;
            for (step, crash) in &steps {
                model.take(step, *crash).await;
            }
            model.finish().await;
        });
        Ok(())
    });
    outcome.unwrap();
    let tried = tried.into_inner();
    assert!(tried >= asked.unwrap_or(LEAST_ORDERS), "{tried} orders");
}

//! What agents' runs move in their session's counters and in the platform's usage, always in the transaction that
//! changes the agent's row.
//!
//! An agent that is about to run *claims* its next [`CLAIM_MS`] from the session's limits, on condition that they leave
//! so much. So of any number of agents that start at one moment, none is one too many. While it runs, reconciling books
//! what has passed and claims on; when it stops, what it did not use is given back. A session's limits are therefore
//! passed only by what runs between two visits of reconciling.

use super::{Agent, AgentStatus, Agents, changes};
use crate::counters::CountersUpdate;
use crate::transaction::{Committed, Transaction, back_off};
use crate::usage::add_usage;
use crate::{Counters, Limits, Reached, Session, StoreError};
use futures_util::future::try_join;
use theazo_metering::{Changes, Day, MICROCENTS_PER_CENT, Part, affordable_ms, parts};
use theazo_tenancy::{AgentId, Mode, SessionScope, TenantScope};

/// How far ahead an agent claims, milliseconds: until reconciling comes by again, which is every minute.
pub(super) const CLAIM_MS: i64 = 60_000;
/// How long two reads may be apart that are made side by side, milliseconds.
const JUST_MS: i64 = 2_000;
/// How long after a limit is reached a sandbox ends by itself, should nobody have paused its agent, milliseconds.
const ENFORCED_WITHIN_MS: i64 = 120_000;
/// How long running time may stay unbooked where no limit waits for it, milliseconds. Whoever shows usage adds what is
/// not booked; this bounds what a lost table would forget.
const BOOK_AT_LEAST_MS: i64 = 15 * 60_000;
/// Tries at a claim that others make smaller meanwhile.
pub(super) const CLAIMS: u32 = 30;
/// After so many an agent that runs goes without.
const PATIENCE: u32 = 10;
/// Days of a pause that are booked in one transaction at most. Each takes two writes and each month one more, beside the
/// dozen of the change that they go with.
const STORED_DAYS: usize = 20;

/// Limits that a start must keep, and how much it may claim of them.
pub(super) struct Allowance {
    /// How long it may run until a limit is reached, milliseconds.
    pub(super) ms: i64,
    /// How much of that it claims now.
    pub(super) claim_ms: i64,
}

impl Agent {
    /// Up to when it is metered at a moment, Unix milliseconds: its sandbox ends by itself, whenever that is noticed, and
    /// while its host cannot be asked about it nobody knows whether it runs.
    pub(super) fn metered_to_ms(&self, now_ms: i64) -> i64 {
        let known_ms = self.silence.map_or(now_ms, |silence| now_ms.min(silence.since_ms));
        self.run_started_ms.map_or(now_ms, |_| known_ms.min(self.sandbox_ends_ms()))
    }

    /// What it has cost by then, micro-cents.
    pub fn cost(&self, now_ms: i64) -> i64 {
        self.meter.cost(self.metered_to_ms(now_ms))
    }

    /// What of its running is not booked by then.
    pub fn unbooked(&self, now_ms: i64) -> Vec<Part> {
        self.meter.unbooked(self.metered_to_ms(now_ms))
    }

    /// What is to be added to what is claimed to know what is used by then: less, as far as it has claimed ahead.
    pub(crate) fn unused(&self, now_ms: i64) -> Vec<Part> {
        self.meter.unused(self.metered_to_ms(now_ms))
    }

    /// Whether it has run beyond what it has claimed.
    fn is_behind(&self, now_ms: i64) -> bool {
        self.unused(now_ms).iter().any(|part| part.ms > 0)
    }

    /// Whether it has claimed within the last moments.
    fn has_just_claimed(&self, now_ms: i64) -> bool {
        self.meter.claimed_to_ms().is_some_and(|to| to > now_ms.saturating_add(CLAIM_MS - JUST_MS))
    }

    /// Whether it has cost as much as it may.
    pub fn cost_cap_reached(&self, now_ms: i64) -> Option<Reached> {
        let cap = self.cost_cap?;
        let reached = self.cost(now_ms) >= i64::from(cap) * MICROCENTS_PER_CENT;
        reached.then_some(Reached { limit: "costCap", used: cap.into(), max: cap.into() })
    }

    /// When its sandbox ends by itself if it goes on running, Unix milliseconds: when its running time is over, or some
    /// time after a limit that was in force when the run began.
    pub fn sandbox_ends_ms(&self) -> i64 {
        let started = self.run_started_ms.unwrap_or(self.since_ms);
        self.deadline_ms().min(started.saturating_add(self.allowed_ms.unwrap_or(i64::MAX)))
    }

    /// How long its sandbox may exist at all, milliseconds, as of the beginning of its run.
    pub fn lifetime_ms(&self) -> i64 {
        self.time_left_ms().min(self.allowed_ms.unwrap_or(i64::MAX))
    }

    /// Notes how long limits allow the run that is about to begin.
    pub(super) fn allow(&mut self, ms: i64, rate: u64, now_ms: i64) {
        let cap = self
            .cost_cap
            .map_or(i64::MAX, |cap| affordable_ms(rate, i64::from(cap) * MICROCENTS_PER_CENT - self.cost(now_ms)));
        let ms = ms.min(cap);
        self.allowed_ms = (ms < i64::MAX).then(|| ms.saturating_add(ENFORCED_WITHIN_MS));
    }

    /// Starts or stops the meter with a status.
    pub(super) fn turn_meter(&mut self, status: AgentStatus, now_ms: i64) -> Changes {
        match status {
            AgentStatus::Ready | AgentStatus::Running => self.meter.start(now_ms),
            // Whoever boots it claims what it will run.
            AgentStatus::Booting | AgentStatus::Paused | AgentStatus::Completed | AgentStatus::Failed => {
                self.meter.stop(now_ms)
            }
        }
    }

    /// What its files have taken in the present pause and is not booked, byte-milliseconds by day. It is booked when the
    /// pause ends, and before that when a day is over. Nothing of
    /// one that is not paused: nobody knows how much a running agent has written. A clock that was put back counts nothing.
    pub fn stored(&self, now_ms: i64) -> Vec<(Day, i128)> {
        let bytes = self.snapshot.as_ref().and_then(|snapshot| snapshot.bytes);
        let Some(bytes) = bytes.filter(|bytes| *bytes > 0 && self.status == AgentStatus::Paused) else {
            return Vec::new();
        };
        let from_ms = self.stored_to_ms.unwrap_or(self.since_ms);
        let time = parts(0, self.since_ms, from_ms, now_ms.max(from_ms));
        time.into_iter().map(|part| (part.day, i128::from(part.ms) * i128::from(bytes))).collect()
    }

    /// Whether something of it must be booked now: what limits wait for, a day that is over, or a long stretch.
    fn is_due(&self, limits: &Limits, now_ms: i64) -> bool {
        self.meter.booked_to_ms().is_some_and(|booked| {
            limits.meter_use() || Day::of(booked) < Day::of(now_ms) || now_ms - booked >= BOOK_AT_LEAST_MS
        })
    }
}

/// How much a start at that rate may claim, by counters as they were a moment ago, if they were read. `own` is what the
/// start itself moves in them besides: of a run that it ends.
///
/// # Errors
/// The limit that is reached.
pub(super) fn allowance(
    session: &Session,
    counters: Option<&Counters>,
    own: &[Part],
    rate: u64,
    now_ms: i64,
    refused: bool,
) -> Result<Allowance, Reached> {
    let limits = &session.limits;
    let figures = counters.unwrap_or(&Counters::default()).claimed(session, now_ms).with(own.iter().copied(), now_ms);
    if let Some(reached) = counters.and_then(|counters| limits.full(counters)).or_else(|| limits.reached(&figures)) {
        return Err(reached);
    }
    let ms = limits.allowance_ms(&figures, rate);
    if ms < 1
        && let Some(reached) = limits.reached(&figures.after_a_moment(rate))
    {
        return Err(reached);
    }
    // Nothing is left of tomorrow either, it may be: then only the rest of today is claimed.
    let today = if refused { figures.left.day } else { i64::MAX };
    Ok(Allowance { ms, claim_ms: ms.min(today).min(CLAIM_MS) })
}

impl Agents {
    /// Adds what a change of an agent's meter moves: its session's counters, in which it also takes or gives back
    /// places, and, for live agents, the platform's usage, with what its files took in a pause that ends with the change.
    /// Nothing of a test agent is usage.
    pub(super) fn count(
        &self,
        transaction: Transaction,
        scope: &TenantScope,
        agent: &Agent,
        update: CountersUpdate,
        changes: &Changes,
        stored: &[(Day, i128)],
    ) -> Result<Transaction, StoreError> {
        let own: SessionScope = scope.session(&agent.session).ok_or(StoreError::NotFound)?;
        let transaction = match update.is_empty() {
            true => transaction,
            false => {
                let (update, condition) = update.expression();
                transaction.update(&self.0, &own.counters_key(), update, &condition)
            }
        };
        Ok(add_usage(transaction, &self.0, scope.mode(), &own, agent, &changes.booked, stored))
    }

    /// The counters of a session with limits that others use up meanwhile; without such limits there is nothing to read.
    /// What its agents have run beyond what they claimed is in no counter, as where a limit was set only now: it is
    /// claimed first, or several that start at once would each take it for free. But for the agent that `restarts`,
    /// whose start moves its own.
    ///
    /// # Errors
    /// [`StoreError::LimitExceeded`] for a limit that is reached by what is used to the millisecond;
    /// [`StoreError::Contended`].
    pub(super) async fn counters_within(
        &self,
        scope: &TenantScope,
        own: &SessionScope,
        session: &Session,
        restarts: Option<&AgentId>,
    ) -> Result<Option<Counters>, StoreError> {
        if !session.limits.meter_use() {
            return Ok(None);
        }
        let counters = async || self.0.get_raw(&own.counters_key()).await?.map(Counters::read).transpose();
        let (known, live) = try_join(counters(), self.unsettled_of_session(own)).await?;
        let now = self.0.now_ms();
        let used = known.as_ref().unwrap_or(&Counters::default()).used(session, &live, now);
        if let Some(reached) = session.limits.reached(&used) {
            return Err(reached.into());
        }
        let others: Vec<_> = live.iter().filter(|agent| Some(&agent.id) != restarts).collect();
        let (behind, claimed): (Vec<_>, Vec<_>) = others.into_iter().partition(|agent| agent.is_behind(now));
        // Of what one has claimed only now nobody knows whether these counters have it.
        if behind.is_empty() && !claimed.iter().any(|agent| agent.has_just_claimed(now)) {
            return Ok(known);
        }
        for agent in behind {
            match self.charge_if(scope, session, &agent.id, |agent, now| agent.is_behind(now)).await {
                Ok(_) | Err(StoreError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        counters().await
    }

    /// Refuses where more agents run than may, since the limit was lowered: who makes room must not boot again instead. What
    /// may run is not more later, but by a change of the session.
    ///
    /// # Errors
    /// [`StoreError::LimitExceeded`].
    pub(super) async fn expect_room(&self, own: &SessionScope, session: &Session) -> Result<(), StoreError> {
        let Some(max) = session.limits.max_agents.map(u64::from) else { return Ok(()) };
        let counters = self.0.get_raw(&own.counters_key()).await?.map(Counters::read).transpose()?.unwrap_or_default();
        let used = u64::try_from(counters.active_agents).unwrap_or(0);
        if used > max { Err(Reached { limit: "maxAgents", used, max }.into()) } else { Ok(()) }
    }

    /// Books what an agent has run since the last time and, where its session has limits that wait for it, claims what
    /// it may run until the next. An agent that does not run, or of which nothing is due, stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn charge(&self, scope: &TenantScope, session: &Session, id: &AgentId) -> Result<Agent, StoreError> {
        self.charge_if(scope, session, id, |agent, now| agent.is_due(&session.limits, now)).await
    }

    /// The same, of an agent of which that holds.
    async fn charge_if(
        &self,
        scope: &TenantScope,
        session: &Session,
        id: &AgentId,
        is_due: impl Fn(&Agent, i64) -> bool,
    ) -> Result<Agent, StoreError> {
        let ahead_ms = if session.limits.meter_use() { CLAIM_MS } else { 0 };
        // How much more than it has claimed already the limits leave it.
        let mut left_ms = i64::MAX;
        for attempt in 0..changes::ATTEMPTS {
            let mut agent = self.get(scope, id).await?.ok_or(StoreError::NotFound)?;
            let now = self.0.now_ms();
            let metered_to = agent.metered_to_ms(now);
            let Some(claimed_to) = agent.meter.claimed_to_ms().filter(|_| is_due(&agent, now)) else {
                return Ok(agent);
            };
            let claim_to = metered_to.saturating_add(ahead_ms).min(claimed_to.saturating_add(left_ms));
            let changes = agent.meter.advance(metered_to, claim_to);
            if changes == Changes::default() {
                return Ok(agent);
            }
            // What has passed is booked in any case.
            let claims = claim_to > metered_to.max(claimed_to);
            let update = CountersUpdate::of(&changes, now);
            let update = if claims { update.within(&session.limits) } else { update };
            let transaction = self.rewrite(scope, &mut agent)?;
            let counters_at = transaction.len();
            let transaction = self.count(transaction, scope, &agent, update, &changes, &[])?;
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(agent),
                Committed::Refused { write, row } if claims && write == counters_at => {
                    let counters = Counters::read(row.unwrap_or_default())?;
                    let left = session.limits.allowance_ms(&counters.claimed(session, now), agent.meter.rate());
                    left_ms = if attempt < PATIENCE { left.min(CLAIM_MS) } else { 0 };
                }
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(changes::ATTEMPTS))
    }

    /// Books what a paused agent's files have taken on days that are over, so that no pause, however long, has more left
    /// than fits into the transaction that ends it. Whatever else an agent does, it stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn charge_storage(&self, scope: &TenantScope, agent: Agent) -> Result<Agent, StoreError> {
        self.book_stored(scope, agent, 1).await
    }

    /// The same, of a pause that is about to end, as far as it must be.
    pub(super) async fn catch_up(&self, scope: &TenantScope, agent: Agent) -> Result<Agent, StoreError> {
        self.book_stored(scope, agent, STORED_DAYS).await
    }

    /// Books the earliest days until so many are left.
    async fn book_stored(&self, scope: &TenantScope, mut agent: Agent, left: usize) -> Result<Agent, StoreError> {
        let mut refused = 0;
        while scope.mode() == Mode::Live {
            let stored = agent.stored(self.0.now_ms());
            let Some(days) = stored.len().checked_sub(left).filter(|days| *days > 0) else { break };
            let earliest = &stored[..days.min(STORED_DAYS)];
            agent.stored_to_ms = earliest.last().map(|(day, _)| day.plus(1).start_ms());
            let transaction = self.rewrite(scope, &mut agent)?;
            let still = Changes::default();
            let counters = CountersUpdate::of(&still, self.0.now_ms());
            let transaction = self.count(transaction, scope, &agent, counters, &still, earliest)?;
            if let Committed::Refused { .. } = transaction.commit(&self.0).await? {
                refused += 1;
                if refused == changes::ATTEMPTS {
                    return Err(StoreError::Contended(refused));
                }
                back_off(refused).await;
                agent = self.get(scope, &agent.id).await?.ok_or(StoreError::NotFound)?;
            }
        }
        Ok(agent)
    }
}

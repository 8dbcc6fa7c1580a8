//! Kills of a whole control plane at random moments: how often, when, and whether they came in the middle of anything.

use std::collections::BTreeMap;
use std::time::Duration;

/// From so many kills of one kind of call on, one of them must have interrupted it.
const ENOUGH: usize = 24;

/// From so many trials on, each kind of call must have been interrupted.
const MANY: usize = 100;

/// A number below that one.
pub fn random(below: u64) -> u64 {
    u64::from_be_bytes(theazo_tenancy::make_random_bytes()) % below
}

/// What a drill has killed.
#[derive(Debug)]
pub struct Kills {
    trials: usize,
    /// How long a whole call of each kind took, at its longest.
    whole: BTreeMap<&'static str, Duration>,
    /// By kind of call, and by what came of it: how often.
    seen: BTreeMap<(&'static str, &'static str), usize>,
}

impl Kills {
    /// As often as `THEAZO_CRASH_TRIALS` says, and so often unless it does.
    pub fn new(otherwise: usize) -> Self {
        let trials = std::env::var("THEAZO_CRASH_TRIALS").ok().and_then(|count| count.parse().ok());
        Self { trials: trials.unwrap_or(otherwise), whole: BTreeMap::new(), seen: BTreeMap::new() }
    }

    /// How often.
    pub fn trials(&self) -> usize {
        self.trials
    }

    /// A call of that kind took so long from its beginning to its answer.
    pub fn took(&mut self, kind: &'static str, whole: Duration) {
        let longest = self.whole.entry(kind).or_insert(whole);
        *longest = whole.max(*longest);
    }

    /// When to kill: at any moment of a call of that kind, or a little later, however fast this machine is, and sooner more
    /// often than later: most calls of a kind are faster than the slowest. One that was not seen to its end yet is taken for
    /// as long as the longest.
    pub fn delay(&self, kind: &str) -> Duration {
        let longest = self.whole.values().max().copied().unwrap_or(Duration::from_secs(1));
        let whole = self.whole.get(kind).copied().unwrap_or(longest);
        // So much it takes for the call to arrive.
        Duration::from_millis(2)
            + Duration::from_micros(random(1 + random(u64::try_from(whole.as_micros()).unwrap() * 5 / 4 + 1)))
    }

    /// One of those whose kind was killed least often until now.
    pub fn rarest<S>(&self, mut steps: Vec<S>, kind: impl Fn(&S) -> &'static str) -> S {
        let killed = |step: &S| -> usize {
            let of_kind = self.seen.iter().filter(|((other, _), _)| *other == kind(step));
            of_kind.map(|(_, count)| count).sum()
        };
        let least = steps.iter().map(killed).min().expect("something can be done");
        steps.retain(|step| killed(step) == least);
        steps.swap_remove(random(steps.len() as u64) as usize)
    }

    /// One was killed, and answered before or not.
    pub fn note(&mut self, kind: &'static str, answered: bool) {
        *self.seen.entry((kind, if answered { "answered" } else { "interrupted" })).or_default() += 1;
    }

    /// Tells what there was, and fails if kills did not interrupt what they were to, in many trials
    /// each of these kinds: such ones prove nothing.
    #[expect(clippy::print_stdout, reason = "whoever runs the whole drill wants to see it")]
    pub fn tell(&self, kinds: &[&'static str]) {
        println!("{:?}", self.seen);
        let of = |kind, outcome| self.seen.get(&(kind, outcome)).copied().unwrap_or(0);
        assert!(self.seen.keys().any(|(_, outcome)| *outcome == "interrupted"), "{self:?}");
        for (kind, _) in self.seen.keys() {
            let (answered, interrupted) = (of(kind, "answered"), of(kind, "interrupted"));
            assert!(interrupted > 0 || answered < ENOUGH, "no {kind} was interrupted: {self:?}");
        }
        for kind in kinds {
            let interrupted = of(kind, "interrupted") > 0;
            assert!(interrupted || self.trials < MANY, "no {kind} was interrupted: {self:?}");
        }
    }
}

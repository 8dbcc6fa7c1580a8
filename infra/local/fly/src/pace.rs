//! How often Fly takes calls: by action, and by the machine or app that it is about
//! (<https://fly.io/docs/machines/api/working-with-machines-api/#rate-limits>). More are answered with 429, and no word of
//! when to come again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Calls a second, and how many may come at once.
#[derive(Clone, Copy)]
struct Rate {
    per_second: f64,
    burst: f64,
}

const USUAL: Rate = Rate { per_second: 1.0, burst: 3.0 };
/// Of looking at one machine.
const LOOKING: Rate = Rate { per_second: 5.0, burst: 10.0 };
/// Of deleting apps, of all together.
const DELETING: Rate = Rate { per_second: 100.0 / 60.0, burst: 100.0 };

/// What is left of a rate, and since when.
struct Bucket {
    left: f64,
    at: Instant,
}

/// Counts calls.
#[derive(Default)]
pub(crate) struct Pace(Mutex<HashMap<(String, String), Bucket>>);

/// The action that a call is, whom it is about, and how often it may come; nothing of what has no such bound. The path is
/// without `/v1`.
fn of(method: &str, path: &str) -> Option<(String, String, Rate)> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match (method, parts.as_slice()) {
        ("DELETE", ["apps", _]) => Some(("DELETE app".into(), String::new(), DELETING)),
        ("GET", ["apps", _, "machines", id]) => Some(("GET machine".into(), (*id).to_owned(), LOOKING)),
        (_, ["apps", _, "machines", id, rest @ ..]) => {
            Some((format!("{method} machine {}", rest.join("/")), (*id).to_owned(), USUAL))
        }
        (_, ["apps", app, rest @ ..]) => {
            // Of a volume or an address it is about the app.
            let action = rest.first().copied().unwrap_or_default();
            Some((format!("{method} {action}"), (*app).to_owned(), USUAL))
        }
        _ => None,
    }
}

impl Pace {
    /// Whether a call may be answered now. It is counted then.
    pub(crate) fn allows(&self, method: &str, path: &str) -> bool {
        self.allows_at(method, path, Instant::now())
    }

    fn allows_at(&self, method: &str, path: &str, now: Instant) -> bool {
        let Some((action, about, rate)) = of(method, path) else { return true };
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry((action, about)).or_insert(Bucket { left: rate.burst, at: now });
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left, bucket.at) = ((bucket.left + since * rate.per_second).min(rate.burst), now);
        let allows = bucket.left >= 1.0;
        if allows {
            bucket.left -= 1.0;
        }
        allows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn three_at_once_and_one_a_second_of_each_action_on_each_machine_or_app_and_more_looks_at_a_machine() {
        let (pace, begun) = (Pace::default(), Instant::now());
        let taken = |method: &str, path: &str, millis: u64| {
            let at = begun + Duration::from_millis(millis);
            (0..20).take_while(|_| pace.allows_at(method, path, at)).count()
        };
        assert_eq!(taken("POST", "/apps/a/machines/m/start", 0), 3);
        assert_eq!(taken("POST", "/apps/a/machines/m/start", 900), 0);
        assert_eq!(taken("POST", "/apps/a/machines/m/start", 1000), 1);
        assert_eq!(taken("POST", "/apps/a/machines/m/start", 60_000), 3, "what was not used is not kept for long");
        // Another action, another machine, another app.
        assert_eq!(taken("POST", "/apps/a/machines/m/stop", 60_000), 3);
        assert_eq!(taken("POST", "/apps/a/machines/n/start", 60_000), 3);
        assert_eq!(taken("POST", "/apps/a/machines", 60_000), 3);
        assert_eq!(taken("POST", "/apps/b/machines", 60_000), 3);
        assert_eq!(taken("GET", "/apps/a/machines/m", 0), 10);
        assert_eq!(taken("GET", "/apps/a/machines/m", 1000), 5);
        assert_eq!(taken("GET", "/apps", 0), 20);
    }
}

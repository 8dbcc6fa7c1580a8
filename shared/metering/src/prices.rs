//! The price table: what an hour of running costs, by provider and compute size.

use serde_json::Value;
use std::collections::BTreeMap;

/// The size that every agent has today, whichever provider it runs on.
const STANDARD: &str = "standard";
/// Most that an hour can cost: 10,000 dollars.
const MAX_RATE: u64 = 1_000_000_000_000;

/// What an hour of running costs in micro-cents, by provider and compute size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prices(BTreeMap<String, BTreeMap<String, u64>>);

/// A price table that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// It is no JSON object of objects.
    #[error("must be JSON like {{\"e2b\": {{\"standard\": 10890000}}}}: micro-cents an hour by provider and size")]
    Shape,
    /// A price is no whole number of micro-cents, or too high.
    #[error("the price of {0} must be a whole number of micro-cents an hour, at most {MAX_RATE}")]
    Rate(String),
}

impl Default for Prices {
    /// List prices of the sizes we run, for deployments that set none:
    ///
    /// * `docker`: nothing; the hosts are the deployment's own.
    /// * `e2b`: 10.89 cents, the default sandbox of 2 vCPU and 512 MiB, at $0.000014 a vCPU and second and $0.0000045 a
    ///   GiB and second (<https://e2b.dev/pricing>, June 2026).
    /// * `fly`: 0.79 cents, a `shared-cpu-1x` machine with 1 GB, region `iad`
    ///   (<https://fly.io/docs/about/pricing/>). Regions differ; set yours.
    /// * `simulated`: nothing.
    fn default() -> Self {
        let standard = |rate| BTreeMap::from([(STANDARD.to_owned(), rate)]);
        let rates = [("docker", 0), ("e2b", 10_890_000), ("fly", 790_000), ("simulated", 0)];
        Self(rates.into_iter().map(|(provider, rate)| (provider.to_owned(), standard(rate))).collect())
    }
}

impl Prices {
    /// The usual prices with those of a JSON text in their place: `{"e2b": {"standard": 10890000}}`.
    ///
    /// # Errors
    /// [`PriceError`] with what is wrong.
    pub fn parse(text: &str) -> Result<Self, PriceError> {
        let mut prices = Self::default();
        let Ok(Value::Object(providers)) = serde_json::from_str(text) else { return Err(PriceError::Shape) };
        for (provider, sizes) in providers {
            let Value::Object(sizes) = sizes else { return Err(PriceError::Shape) };
            for (size, rate) in sizes {
                let Some(rate) = rate.as_u64().filter(|rate| *rate <= MAX_RATE) else {
                    return Err(PriceError::Rate(format!("{provider}.{size}")));
                };
                prices.0.entry(provider.clone()).or_default().insert(size, rate);
            }
        }
        Ok(prices)
    }

    /// What [`Prices::parse`] reads.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// Micro-cents an hour of an agent of the only size there is. A provider without a price costs nothing.
    pub fn rate(&self, provider: &str) -> u64 {
        self.0.get(provider).and_then(|sizes| sizes.get(STANDARD)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_that_are_not_given_are_the_usual_ones_and_a_table_reads_back() {
        let prices = Prices::parse(r#"{"fly": {"standard": 5}, "own": {"large": 7}}"#).unwrap();
        assert_eq!((prices.rate("fly"), prices.rate("e2b"), prices.rate("own")), (5, 10_890_000, 0));
        assert_eq!(Prices::parse(&prices.to_json()), Ok(prices));
        assert_eq!(Prices::parse("{}"), Ok(Prices::default()));
        assert_eq!((Prices::default().rate("docker"), Prices::default().rate("simulated")), (0, 0));
    }

    #[test]
    fn a_table_that_cannot_be_used_is_refused_with_what_is_wrong() {
        for text in ["", "5", "[]", r#"{"e2b": 5}"#, "{"] {
            assert_eq!(Prices::parse(text), Err(PriceError::Shape), "{text}");
        }
        for rate in ["-1", "1.5", "\"5\"", "null", "1000000000001"] {
            let text = format!(r#"{{"e2b": {{"standard": {rate}}}}}"#);
            assert_eq!(Prices::parse(&text), Err(PriceError::Rate("e2b.standard".into())), "{rate}");
        }
    }
}

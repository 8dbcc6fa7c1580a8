//! How a platform's agents do: figures of now and over time. What test keys run is measured as well, and is seen by test
//! keys only; it costs nothing.

pub mod series;
pub mod summary;

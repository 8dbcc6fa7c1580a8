//! A function of the schedule's: `reconcile`
use theazo_functions::{schedule, scheduled};

scheduled!(schedule::RECONCILE);

//! A function of the schedule's: `upkeep`
use theazo_functions::{schedule, scheduled};

scheduled!(schedule::UPKEEP);

//! Turns readings into a verdict. All functions are pure, so that `simulator` can test them against
//! any load.

pub mod budgets;
pub mod circumstances;
pub mod controller;
pub mod load;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod simulator;
pub mod verdict;

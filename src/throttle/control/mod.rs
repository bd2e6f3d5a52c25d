//! Turns readings into a verdict. The code does no I/O and reads no clock, so that `simulator` can
//! test it under any load.

pub mod budgets;
pub mod circumstances;
pub mod controller;
pub mod load;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod simulator;
pub mod verdict;

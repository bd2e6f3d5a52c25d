//! The control law: readings in, a verdict out. Pure, so that it can be tried against any load;
//! `simulator` does that.

pub mod budgets;
pub mod circumstances;
pub mod controller;
pub mod load;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod simulator;
pub mod verdict;

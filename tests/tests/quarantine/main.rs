//! One damaged segment: what fails, what goes on, and that nothing is made worse.

#![cfg(unix)]

mod merges;
mod opens;
mod reads;
mod support;

//! What the programs that measure over HTTP have in common.

#![deny(unsafe_code)]

pub mod api;
pub mod load;
pub mod processes;
pub mod results;
pub mod rival;

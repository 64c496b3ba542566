//! What everything else speaks of: sessions, ids, lifetimes. Pure, no I/O.

pub mod device;
pub mod id;
pub mod location;
pub mod revocation;
pub mod session;
pub mod time;

pub use device::{Device, DeviceClass};
pub use id::{SessionId, UserId};
pub use location::Location;
pub use revocation::Revocation;
pub use session::{EndCause, Session};
pub use time::Timestamp;

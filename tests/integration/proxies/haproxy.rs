//! HAProxy, with a script in Lua.

use super::stage::Kind;

super::stories!(Kind::Haproxy);

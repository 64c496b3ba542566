//! Caddy, with `forward_auth`.

use super::stage::Kind;

super::stories!(Kind::Caddy);

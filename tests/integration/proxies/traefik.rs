//! Traefik, with `ForwardAuth`.

use super::stage::Kind;

super::stories!(Kind::Traefik);

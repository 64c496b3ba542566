//! Envoy, with `ext_authz` over HTTP and over gRPC.

mod http {
    use crate::proxies::stage::Kind;

    crate::proxies::stories!(Kind::EnvoyHttp);
}

mod grpc {
    use crate::proxies::stage::Kind;

    crate::proxies::stories!(Kind::EnvoyGrpc);
}

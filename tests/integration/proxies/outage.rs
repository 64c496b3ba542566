//! When Gatehouse does not answer, or cannot know.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::session::bearer;
use super::stage::{self, Kind, Stage, get};
use crate::harness::eventually;

pub(super) async fn gateway(kind: Kind) {
    let mut stage = Stage::set(kind, &[]).await;
    let credential = bearer(&stage.gateway().login("ann").await);
    let request = get("/inbox", &[("Authorization", &credential)]);
    assert_eq!(stage.send(&request).await.status, 200);

    stage.gateway().process.signal("STOP");
    let stat = format!("/proc/{}/stat", stage.gateway().process.0.id());
    let stopped = || async { std::fs::read_to_string(&stat).unwrap().contains(") T ") };
    assert!(eventually(Duration::from_secs(5), stopped).await);
    let before = stage.echo.seen();
    let mut stream = stage.connect().await;
    stream.write_all(&request).await.unwrap();
    // Traefik waits for half a minute; it is enough that nothing passes meanwhile.
    let patience = Duration::from_secs(3);
    let waits = kind == Kind::Traefik;
    match tokio::time::timeout(patience, stage::read(&mut stream, false)).await {
        Ok(Some(reply)) => assert!(reply.status >= 500, "{reply:?}"),
        Ok(None) => {}
        Err(_) => assert!(waits, "no answer"),
    }
    drop(stream);
    let optional = get("/optional/", &[]);
    assert_eq!(stage.echo.seen(), before);
    stage.gateway().process.signal("CONT");
    let back = || async { stage.send(&request).await.status == 200 };
    assert!(eventually(Duration::from_secs(10), back).await);

    let process = &mut stage.gatehouse.gateways[0].process.0;
    process.kill().unwrap();
    process.wait().unwrap();
    let before = stage.echo.seen();
    // Over HTTP Envoy asks nobody there.
    let asked = if kind == Kind::EnvoyHttp { &[request][..] } else { &[request, optional] };
    for request in asked {
        let reply = stage.send(request).await;
        assert!(reply.status >= 500, "{reply:?}");
    }
    assert_eq!(stage.echo.seen(), before);
}

/// Gatehouse answers with 503.
pub(super) async fn store(kind: Kind) {
    let settings = ["check.max_staleness=1s", "redis.timeout=100ms"];
    let stage = Stage::set(kind, &settings).await;
    let credential = bearer(&stage.gateway().login("ann").await);
    let headers = [("Authorization", credential.as_str()), ("Sec-Fetch-Mode", "navigate")];
    assert_eq!(stage.get("/inbox", &headers).await.0.status, 200);
    stage.gatehouse.redis.kill();
    // An outage sends nobody to the login page.
    let refused = || async {
        let (reply, passed) = stage.get("/inbox", &headers).await;
        assert_eq!(passed, reply.status == 200, "{reply:?}");
        assert!(passed || reply.status >= 500, "{reply:?}");
        !passed
    };
    assert!(eventually(Duration::from_secs(5), refused).await);
}

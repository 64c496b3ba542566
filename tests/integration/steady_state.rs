//! Checks are answered from memory.

use std::time::Duration;

use futures::{StreamExt as _, stream};

use crate::harness::Gatehouse;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_checks_send_no_command() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let other = gateway.login("bob").await;
    gateway.check(&tokens.access).await;
    // What runs by itself: heartbeats, the feed, the sweeper, a batch of activity.
    let commands = || -> Vec<(String, u64)> {
        let own = [
            "info",
            "evalsha",
            "hmget",
            "time",
            "hset",
            "hget",
            "xread",
            "ping",
            "auth",
            "hello",
            "zrangebyscore",
            "zrange",
            "zcard",
            "command|docs",
            "zadd",
            "client",
        ];
        gatehouse
            .redis
            .cli(&["INFO", "commandstats"])
            .lines()
            .filter_map(|line| {
                let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
                (!own.contains(&name))
                    .then(|| (name.to_owned(), rest.split(',').next().unwrap().parse().unwrap()))
            })
            .collect()
    };
    let scripts = || gatehouse.redis.calls("evalsha");
    let idle = {
        let before = scripts();
        tokio::time::sleep(Duration::from_secs(2)).await;
        scripts() - before
    };
    let (others, before, start) = (commands(), scripts(), std::time::Instant::now());
    let checks = stream::iter(0..10_000)
        .map(|i| gateway.check(if i % 2 == 0 { &tokens.access } else { &other.access }));
    let allowed = checks.buffer_unordered(32).filter(|status| {
        let allowed = *status == 200;
        async move { allowed }
    });
    assert_eq!(allowed.count().await, 10_000);
    let seconds = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (sent, alone) = ((scripts() - before) as f64, idle as f64 / 2.0 * (seconds + 1.0));
    assert!(
        sent <= alone * 1.5 + 40.0,
        "{sent} scripts in {seconds:.1} s, {alone:.0} without checks"
    );
    let grown = commands();
    // Activity: two sessions, one script a flush.
    for (name, calls) in grown {
        let before = others.iter().find(|(other, _)| *other == name).map_or(0, |(_, calls)| *calls);
        assert!(calls - before <= 8, "{name}: {calls}");
    }
    assert!(
        gateway.metric(r#"gatehouse_checks_total{result="allowed",source="memory"}"#).await
            >= 10_000
    );
    assert_eq!(
        gateway.metric(r#"gatehouse_checks_total{result="allowed",source="store"}"#).await,
        0
    );
}

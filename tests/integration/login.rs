//! People log in with a password.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Gatehouse, PASSWORD, eventually, person};

/// How soon what was ended by a change of the password file is refused.
const SOON: Duration = Duration::from_millis(250);

fn both(ann: &str, bob: &str) -> String {
    person("ann", ann, "") + &person("bob", PASSWORD, bob)
}

#[tokio::test]
async fn a_person_logs_in_and_is_let_in() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let answer = Answer::of(gateway.password("ann", PASSWORD)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.body["session"]["auth_method"], "pwd");
    assert_eq!(answer.body["session"]["device_name"], "Chrome on Windows");
    let tokens = answer.tokens();
    let check = gateway.get("/authz/auth-request?role=staff").bearer_auth(&tokens.access);
    assert_eq!(Answer::of(check).await.headers["remote-user"], "ann");
    assert_eq!(gateway.refresh(&tokens.refresh).await.status, 200);
}

#[tokio::test]
async fn nobody_learns_who_exists() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    gatehouse.write_users(&both(PASSWORD, "disabled = true"));
    let gone = || async { Answer::of(gateway.password("root", PASSWORD)).await.status == 401 };
    assert!(eventually(Duration::from_secs(2), gone).await);
    let mut answers = Vec::new();
    for (name, password) in
        [("ann", "wrong horse"), ("bob", PASSWORD), ("zoe", PASSWORD), ("{*}", "wrong horse")]
    {
        let mut answer = Answer::of(gateway.password(name, password)).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_credentials"), "{name}");
        assert_eq!(answer.body["trace_id"].as_str().unwrap().len(), 32);
        answer.body["trace_id"] = Value::Null;
        answer.headers.remove("date");
        answers.push((answer.body.to_string(), format!("{:?}", answer.headers)));
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    assert!(gatehouse.redis.keys("*session:*").is_empty());
}

/// The median of what these took.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test]
async fn a_login_takes_as_long_for_somebody_unknown() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for i in 0..500 {
        // In turns, so that what else the machine does counts for both.
        for (name, times) in [("ann", &mut known), ("zoe", &mut unknown)] {
            let start = Instant::now();
            let answer = Answer::of(gateway.password(name, &format!("guess {i}"))).await;
            times.push(start.elapsed());
            assert_eq!(answer.status, 401);
        }
    }
    let (known, unknown) = (median(known).as_secs_f64(), median(unknown).as_secs_f64());
    println!("known {known:.6} s, unknown {unknown:.6} s");
    assert!((0.9..1.1).contains(&(known / unknown)), "{known} s, {unknown} s");
}

#[tokio::test]
async fn what_is_no_login_is_named() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let post = |body: Value| Answer::of(gateway.post("/api/v1/login").json(&body));
    for (body, field) in [
        (json!({}), "username"),
        (json!({ "username": "ann" }), "password"),
        (json!({ "username": "", "password": "x" }), "username"),
        (json!({ "username": "ann", "password": "" }), "password"),
        (json!({ "username": "ann", "password": "x".repeat(1025) }), "password"),
        (json!({ "username": "ann", "password": ["x"] }), "password"),
        (json!({ "username": "ann", "password": "x", "mode": "jwt" }), "mode"),
        (json!({ "username": "ann", "password": "x", "device_name": "\u{202e}" }), "device_name"),
        (json!({ "username": "ann", "password": "x", "admin": true }), "admin"),
    ] {
        let answer = post(body.clone()).await;
        assert_eq!((answer.status, answer.code()), (400, "validation_failed"), "{body}");
        assert_eq!(answer.fields().into_iter().collect::<Vec<_>>(), [field], "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_disabled_is_out_everywhere_at_once() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let [one, two] = &gatehouse.gateways[..] else { panic!() };
    let by_password = Answer::of(one.password("bob", PASSWORD)).await.tokens();
    let by_backend = two.login("bob").await;
    let ann = Answer::of(one.password("ann", PASSWORD)).await.tokens();
    for gateway in [one, two] {
        for tokens in [&by_password, &by_backend, &ann] {
            assert_eq!(gateway.check(&tokens.access).await, 200);
        }
    }
    let text = fs_text(&gatehouse).replace("name = 'bob'", "name = 'bob'\ndisabled = true");
    let start = Instant::now();
    gatehouse.write_users(&text);
    for gateway in [one, two] {
        for tokens in [&by_password, &by_backend] {
            let out = || async { gateway.check(&tokens.access).await == 401 };
            assert!(eventually(SOON.saturating_sub(start.elapsed()), out).await);
        }
    }
    for gateway in [one, two] {
        // Whoever has not looked yet ends what it lets begin.
        let refused = || async {
            Answer::of(gateway.password("bob", PASSWORD)).await.code() == "invalid_credentials"
        };
        assert!(eventually(SOON, refused).await);
        let refused =
            || async { gateway.create(json!({ "user_id": "bob" })).await.code() == "forbidden" };
        assert!(eventually(SOON, refused).await);
        assert_eq!(gateway.refresh(&by_backend.refresh).await.code(), "session_revoked");
        assert_eq!(gateway.check(&ann.access).await, 200, "nobody else");
    }
    assert_eq!(gatehouse.redis.cli(&["ZCARD", "gh:{05}:user:bob"]), "0");
}

fn fs_text(gatehouse: &Gatehouse) -> String {
    std::fs::read_to_string(gatehouse.dir.path().join("users.toml")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_ends_what_began_with_the_old_one_once() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let [one, two] = &gatehouse.gateways[..] else { panic!() };
    let old = Answer::of(one.password("ann", PASSWORD)).await.tokens();
    let bob = Answer::of(one.password("bob", PASSWORD)).await.tokens();
    gatehouse.write_users(&both("better horse", ""));
    // Both gateways change over, each in its own time; what begins meanwhile with the new password
    // must survive the other's.
    let mut new = None;
    let logged_in = Instant::now();
    while new.is_none() && logged_in.elapsed() < Duration::from_secs(2) {
        let answer = Answer::of(two.password("ann", "better horse")).await;
        new = (answer.status == 200).then(|| answer.tokens());
    }
    let new = new.unwrap();
    for gateway in [one, two] {
        let out = || async { gateway.check(&old.access).await == 401 };
        assert!(eventually(SOON, out).await);
        let refused =
            || async { Answer::of(gateway.password("ann", PASSWORD)).await.status == 401 };
        assert!(eventually(SOON, refused).await);
    }
    tokio::time::sleep(SOON).await;
    for gateway in [one, two] {
        assert_eq!(gateway.check(&new.access).await, 200, "began with the new one");
        // Another line for the same password is a changed one, too.
        let renewed = Answer::of(gateway.password("bob", PASSWORD)).await;
        assert_eq!(renewed.status, 200);
    }
    assert_eq!(one.check(&bob.access).await, 401);
    assert_eq!(one.refresh(&new.refresh).await.status, 200);
}

#[tokio::test]
async fn a_change_while_no_gateway_ran_counts_too() {
    let mut gatehouse = Gatehouse::start().await;
    let ann = Answer::of(gatehouse.gateway().password("ann", PASSWORD)).await.tokens();
    let bob = Answer::of(gatehouse.gateway().password("bob", PASSWORD)).await.tokens();
    gatehouse.gateways.clear();
    gatehouse.write_users(&fs_text(&gatehouse).replace("'ann'", "'anna'"));
    let gateway = gatehouse.add_gateway().await;
    let out = || async { gateway.check(&ann.access).await == 401 };
    assert!(eventually(Duration::from_secs(2), out).await, "the file does not name her any more");
    assert_eq!(gateway.check(&bob.access).await, 200);
}

#[tokio::test]
async fn a_broken_password_file_changes_nothing() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let ann = Answer::of(gateway.password("ann", PASSWORD)).await.tokens();
    for text in ["", "[[users]]\nname = 'ann'\npassword = 'hunter22'\n", "users = ["] {
        gatehouse.write_users(text);
        tokio::time::sleep(SOON).await;
        assert_eq!(gateway.check(&ann.access).await, 200);
        assert_eq!(Answer::of(gateway.password("ann", PASSWORD)).await.status, 200);
    }
    let log = std::fs::read_to_string(gatehouse.dir.path().join("gateway-0.log")).unwrap();
    assert!(log.contains("the new password file cannot be used"), "{log}");
    assert!(!log.contains("hunter22"));
}

#[tokio::test]
async fn without_a_store_nobody_logs_in_and_is_told_so_at_once() {
    let gatehouse = Gatehouse::with(1, &["redis.timeout=250ms"]).await;
    gatehouse.redis.signal("STOP");
    let start = Instant::now();
    let answer = Answer::of(gatehouse.gateway().password("ann", PASSWORD)).await;
    let took = start.elapsed();
    gatehouse.redis.signal("CONT");
    assert_eq!((answer.status, answer.code()), (503, "store_unavailable"));
    assert!(answer.headers.contains_key("retry-after"));
    assert!(took < Duration::from_millis(350), "{took:?}");
}

#[test]
fn a_hash_is_made_from_standard_input() {
    use std::io::Write as _;
    let run = |password: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gatehouse"))
            .arg("hash-password")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (fine, line) = run("correct horse\n");
    assert!(fine && line.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{line}");
    assert_eq!(run("short\n"), (false, String::new()));
}

#[tokio::test]
async fn a_session_list_needs_no_more_than_the_login() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = Answer::of(gateway.password("ann", PASSWORD)).await.tokens();
    let list = gateway.call(Method::GET, "/api/v1/users/sessions", &tokens).await;
    assert_eq!(list.body["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(list.body["sessions"][0]["is_current"], true);
}

//! The login page: what a browser without script does.

use reqwest::{Client, RequestBuilder, Response, redirect};

use crate::harness::{Gatehouse, Gateway, PASSWORD};

const APP: &str = "https://app.example";

fn browser() -> Client {
    Client::builder().redirect(redirect::Policy::none()).build().unwrap()
}

fn post(gateway: &Gateway, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    browser()
        .post(format!("{}{path}", gateway.url))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "same-origin")
        .body(body)
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

fn cookie(response: &Response) -> String {
    header(response, "set-cookie").split(';').next().unwrap().to_owned()
}

async fn start(settings: &[&str]) -> Gatehouse {
    let all = [&["login.return_origins=https://app.example"], settings].concat();
    Gatehouse::with(1, &all).await
}

const ANN: [(&str, &str); 2] = [("username", "ann"), ("password", PASSWORD)];

#[tokio::test]
async fn a_person_goes_the_whole_way() {
    let gatehouse = start(&[]).await;
    let gateway = gatehouse.gateway();
    // The page behind the proxy sends them to log in, with the way back.
    let asked = browser().get(format!("{}/authz/forward-auth", gateway.url));
    let asked = asked
        .header("x-forwarded-method", "GET")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "app.example")
        .header("x-forwarded-uri", "/inbox?page=2")
        .header("sec-fetch-mode", "navigate");
    let sent = asked.try_clone().unwrap().send().await.unwrap();
    assert_eq!(sent.status(), 302);
    let location = header(&sent, "location").to_owned();
    let way = "return_to=https%3A%2F%2Fapp%2Eexample%2Finbox%3Fpage%3D2";
    assert_eq!(location, format!("http://127.0.0.1:8080/login?{way}"));
    let form = browser().get(format!("{}/login?{way}", gateway.url)).send().await.unwrap();
    assert_eq!(
        (form.status(), header(&form, "content-type")),
        (200.try_into().unwrap(), "text/html; charset=utf-8")
    );
    let policy = header(&form, "content-security-policy").to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'self'; "), "{policy}");
    assert!(policy.contains("form-action 'self' https://app.example; frame-ancestors 'none'"));
    assert_eq!(header(&form, "cache-control"), "no-store");
    let html = form.text().await.unwrap();
    let field = r#"name="return_to" value="https://app.example/inbox?page=2""#;
    assert!(html.contains(field) && !html.contains("<script"), "{html}");
    // They log in, and are sent back.
    let fields = [&ANN[..], &[("return_to", "https://app.example/inbox?page=2")]].concat();
    let back = post(gateway, "/login", &fields).send().await.unwrap();
    assert_eq!(back.status(), 303);
    assert_eq!(header(&back, "location"), "https://app.example/inbox?page=2");
    let cookie = cookie(&back);
    assert_eq!(asked.header("cookie", &cookie).send().await.unwrap().status(), 200);
    let form = browser().get(format!("{}/login", gateway.url)).header("cookie", &cookie);
    let html = form.send().await.unwrap().text().await.unwrap();
    assert!(html.contains("You are logged in as <strong>ann</strong>"), "{html}");
    // A link alone does not log them out; the form does.
    let link = browser().get(format!("{}/logout", gateway.url)).header("cookie", &cookie);
    assert_eq!(link.send().await.unwrap().status(), 200);
    assert_eq!(gateway.check_cookie(&cookie).await, 200);
    let out = post(gateway, "/logout", &[]).header("cookie", &cookie).send().await.unwrap();
    assert_eq!((out.status().as_u16(), header(&out, "location")), (303, "/login"));
    assert!(header(&out, "set-cookie").contains("Max-Age=0"));
    assert_eq!(gateway.check_cookie(&cookie).await, 401);
}

#[tokio::test]
async fn nobody_is_sent_elsewhere() {
    let gatehouse = start(&[]).await;
    let gateway = gatehouse.gateway();
    for way in [
        "",
        "//evil.example",
        "/\\evil.example",
        "https:evil.example",
        "https://app.example.evil.example/",
        "https://app.example@evil.example/",
        "https://app.example:444/",
        "https://app\u{3002}example/",
        "javascript:alert(1)",
        "https://app.example/\r\nset-cookie: a=b",
        "http://127.0.0.1:8081/",
    ] {
        let fields = [&ANN[..], &[("return_to", way)]].concat();
        let answer = post(gateway, "/login", &fields).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "location")),
            (303, "/login"),
            "{way}"
        );
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("return_to", way)
            .finish();
        let form = browser().get(format!("{}/login?{query}", gateway.url)).send().await.unwrap();
        assert!(!form.text().await.unwrap().contains("return_to"), "{way}");
    }
    // Nor does what a client says of itself move the page.
    let form = browser().get(format!("{}/login", gateway.url)).header("x-forwarded-host", "evil");
    assert!(!form.send().await.unwrap().text().await.unwrap().contains("evil"));
}

#[tokio::test]
async fn another_site_logs_nobody_in_or_out() {
    let gatehouse = start(&[]).await;
    let gateway = gatehouse.gateway();
    let mine = gateway.cookie("ann").await;
    for (name, value) in
        [("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site"), ("origin", APP)]
    {
        for path in ["/login", "/logout", "/login/resolve"] {
            let body = format!("username=bob&password={PASSWORD}");
            let request = browser().post(format!("{}{path}", gateway.url)).header(name, value);
            let request =
                request.header("content-type", "application/x-www-form-urlencoded").body(body);
            let answer = request.header("cookie", &mine).send().await.unwrap();
            assert_eq!(answer.status(), 403, "{path} {value}");
            assert!(!answer.headers().contains_key("set-cookie"));
        }
    }
    assert_eq!(gateway.check_cookie(&mine).await, 200);
}

#[tokio::test]
async fn a_wrong_password_is_said_to_be_wrong() {
    let gatehouse = start(&[]).await;
    let gateway = gatehouse.gateway();
    let fields = [("username", "<b>ann\"</b>"), ("password", "wrong"), ("remember", "1")];
    let answer = post(gateway, "/login", &fields).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert!(!answer.headers().contains_key("set-cookie"));
    let html = answer.text().await.unwrap();
    assert!(html.contains("The user name or the password is wrong."), "{html}");
    assert!(!html.contains("<b>"), "what was typed is text: {html}");
    assert!(html.contains("value=\"1\" checked") && !html.contains("value=\"wrong"), "{html}");
    for empty in [&[][..], &[("username", "ann")], &[("password", PASSWORD)]] {
        assert_eq!(post(gateway, "/login", empty).send().await.unwrap().status(), 401);
    }
}

#[tokio::test]
async fn at_the_limit_the_page_asks_which_one_ends() {
    let gatehouse = start(&["sessions.limit=1"]).await;
    let gateway = gatehouse.gateway();
    let body = serde_json::json!({ "username": "ann", "password": PASSWORD, "mode": "cookie",
                                   "device_name": "<i>Ann's</i> phone" });
    let first = crate::harness::Answer::of(gateway.post("/api/v1/login").json(&body)).await;
    let fields = [&ANN[..], &[("return_to", "https://app.example/")]].concat();
    let full = post(gateway, "/login", &fields).send().await.unwrap();
    assert_eq!(full.status(), 409);
    let pre_login = cookie(&full);
    let html = full.text().await.unwrap();
    assert!(html.contains("End one to continue") && !html.contains("<i>"), "{html}");
    let between = |name: &str| {
        let start = html.split_once(&format!("name=\"{name}\" value=\"")).unwrap().1;
        start.split_once('"').unwrap().0.to_owned()
    };
    let (ticket, id) = (between("ticket"), between("revoke"));
    assert_eq!(id, first.body["session"]["id"].as_str().unwrap());
    let fields = [("ticket", &*ticket), ("return_to", "https://app.example/"), ("revoke", &id)];
    let stolen = post(gateway, "/login/resolve", &fields).send().await.unwrap();
    assert_eq!(stolen.status(), 401, "from another browser");
    let done = post(gateway, "/login/resolve", &fields).header("cookie", pre_login);
    let done = done.send().await.unwrap();
    assert_eq!((done.status().as_u16(), header(&done, "location")), (303, "https://app.example/"));
    assert_eq!(gateway.check_cookie(&cookie(&done)).await, 200);
    assert_eq!(gateway.check_cookie(&first.cookie()).await, 401);
}

#[tokio::test]
async fn without_a_store_the_page_says_so() {
    let gatehouse = start(&["redis.timeout=250ms"]).await;
    gatehouse.redis.signal("STOP");
    let answer = post(gatehouse.gateway(), "/login", &ANN).send().await.unwrap();
    gatehouse.redis.signal("CONT");
    assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (503, "1"));
    assert!(answer.text().await.unwrap().contains("does not work at this moment"));
}

//! nginx, with `auth_request`.

use super::session::bearer;
use super::stage::{Kind, Stage};

super::stories!(Kind::Nginx);

#[tokio::test]
async fn the_question_itself_cannot_be_asked_by_a_client() {
    let stage = Stage::set(Kind::Nginx, &[]).await;
    let credential = bearer(&stage.gateway().login("ann").await);
    for path in ["/gatehouse/", "/gatehouse/optional=1", "/gatehouse/role=admin&max_age=600"] {
        let (reply, passed) = stage.get(path, &[("Authorization", &credential)]).await;
        assert_eq!((reply.status, passed), (404, false), "{path}");
    }
}

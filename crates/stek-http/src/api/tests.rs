//! What a table of routes says of itself.

use axum::body::Body;
use axum::extract::Path;
use http::StatusCode;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;

const ABOUT: About = About { title: "sample", description: "a sample", version: "1" };

#[derive(schemars::JsonSchema, serde::Deserialize)]
#[expect(dead_code, reason = "for its shape")]
struct Query {
    /// The first page begins after it.
    after: Option<String>,
    limit: u64,
}

#[derive(schemars::JsonSchema, serde::Serialize)]
struct Cat {
    name: String,
    #[serde(default)]
    owner: Option<String>,
}

async fn greet(Path(name): Path<String>) -> String {
    name
}

fn show() -> Operation {
    Operation::new("showCat", "Shows a cat")
        .path::<String>("name", "Its name")
        .query::<Query>()
        .json::<Cat>(StatusCode::OK, "The cat")
        .with::<String>(StatusCode::OK, "ETag", "What there is")
        .refuses([StatusCode::NOT_FOUND])
}

fn api() -> Api {
    Api::new().route("/cats/{name}", Route::new().get(greet, show()))
}

fn at<'a>(document: &'a Value, pointer: &str) -> &'a Value {
    document.pointer(pointer).unwrap_or_else(|| panic!("{pointer} of {document:#}"))
}

#[test]
fn an_operation_says_what_it_takes_and_answers() {
    let document = api().document(ABOUT);
    let operation = at(&document, "/paths/~1cats~1{name}/get");
    assert_eq!(operation["operationId"], "showCat");
    let parameters = operation["parameters"].as_array().unwrap();
    let said: Vec<_> = parameters
        .iter()
        .map(|one| (one["in"].as_str().unwrap(), one["name"].as_str().unwrap(), &one["required"]))
        .collect();
    let (yes, no) = (&Value::Bool(true), &Value::Bool(false));
    let expected = [
        ("header", "x-request-id", no),
        ("path", "name", yes),
        ("query", "after", no),
        ("query", "limit", yes),
    ];
    assert_eq!(said, expected);
    assert_eq!(parameters[2]["description"], "The first page begins after it.");
    assert_eq!(parameters[2]["schema"]["type"], "string", "there is no null in a query");
    let statuses: Vec<_> = operation["responses"].as_object().unwrap().keys().collect();
    let expected = ["200", "400", "401", "404", "414", "429", "431", "500", "503"];
    assert_eq!(statuses, expected);
    let reference = "/responses/200/content/application~1json/schema/$ref";
    assert_eq!(at(operation, reference), "#/components/schemas/Cat");
    assert_eq!(at(operation, "/responses/200/headers/ETag/required"), true);
    for status in ["401", "404", "429", "500", "503"] {
        let answer = &operation["responses"][status];
        let reference = at(answer, "/content/application~1problem+json/schema/$ref");
        assert_eq!(reference, "#/components/schemas/Problem");
        assert_eq!(at(answer, "/headers/Cache-Control/schema/const"), "no-store");
    }
    assert_eq!(at(operation, "/responses/503/headers/Retry-After/schema/type"), "integer");
    assert_eq!(at(operation, "/responses/401/headers/WWW-Authenticate/required"), true);
    assert_eq!(at(&document, "/components/schemas/Cat/required/1"), "owner", "always sent");
    at(&document, "/components/schemas/Problem/properties/title");
}

#[test]
fn whole_numbers_have_bounds() {
    let document = api().document(ABOUT);
    let limit = at(&document, "/paths/~1cats~1{name}/get/parameters/3/schema");
    assert_eq!((&limit["minimum"], &limit["maximum"]), (&json!(0), &json!(u64::MAX)));
}

#[tokio::test]
async fn a_change_is_not_made_in_words_that_are_not_understood() {
    let change = Operation::new("feedCats", "Feeds them").empty(StatusCode::OK, "They are fed");
    let show = Operation::new("showCats", "Shows them").empty(StatusCode::OK, "They are shown");
    let route = Route::new().get(|| async {}, show).post(|| async {}, change);
    let api = Api::<()>::new().route("/cats", route);
    let document = api.document(ABOUT);
    at(&document, "/paths/~1cats/post/responses/400/content");
    let router = api.into_routes().with_fallbacks();
    for (method, uri, status) in [
        ("POST", "/cats", StatusCode::OK),
        ("POST", "/cats?", StatusCode::OK),
        ("POST", "/cats?dry_run=true", StatusCode::BAD_REQUEST),
        ("GET", "/cats?at=7", StatusCode::OK),
        ("PUT", "/cats?at=7", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let request = http::Request::builder().method(method).uri(uri).body(Body::empty());
        let response = router.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{method} {uri}");
    }
}

#[tokio::test]
async fn anybody_may_read_the_document_and_finds_it_in_itself() {
    let router = api().described(ABOUT);
    let request = http::Request::get(PATH).body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let document: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["/cats/{name}", PATH]);
    let own = at(&document, "/paths/~1openapi.json/get");
    assert_eq!(own["security"], json!([]));
    assert!(own["responses"].get("401").is_none());
}

#[test]
#[should_panic(expected = "the parameters of /cats/{cat}")]
fn a_path_has_the_parameters_that_are_described() {
    let _ = Api::<()>::new().route("/cats/{cat}", Route::new().get(greet, show()));
}

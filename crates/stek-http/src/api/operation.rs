//! One operation of an interface in the words of OpenAPI 3.1: what it takes and everything that it can
//! answer, what every request can be answered with included.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::problem::{self, Document};
use crate::request_id::X_REQUEST_ID;

const JSON: &str = "application/json";

/// An operation and everything that it can answer.
///
/// Beside what is said of it, a request may be answered by the listener itself: 400, 414 and 431 for
/// a head that is none or too long, 500 if the handler fails, 503 if there are too many connections;
/// and by whoever finds out who asks: 401, 429 and 503.
#[derive(Debug, Clone)]
pub struct Operation {
    name: &'static str,
    summary: &'static str,
    description: Option<&'static str>,
    access: Access,
    parameters: Vec<Value>,
    path_parameters: BTreeSet<&'static str>,
    body: Option<Value>,
    answers: BTreeMap<u16, Value>,
    schemas: Map<String, Value>,
}

/// Whether somebody must prove who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Proven,
    Anonymous,
}

/// Which way a document goes: fields with defaults may be left out by whoever sends one, and are
/// always there in an answer.
#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

impl Operation {
    /// `name` is an identifier that generated clients call it by, `summary` a few words.
    pub fn new(name: &'static str, summary: &'static str) -> Self {
        let this = Self {
            name,
            summary,
            description: None,
            access: Access::Proven,
            parameters: Vec::new(),
            path_parameters: BTreeSet::new(),
            body: None,
            answers: BTreeMap::new(),
            schemas: Map::new(),
        };
        this.header::<Name>(X_REQUEST_ID.as_str(), "Names the request in the logs of both ends")
    }

    /// Says more, in Markdown.
    #[must_use]
    pub fn about(mut self, description: &'static str) -> Self {
        self.description = Some(description);
        self
    }

    /// Anybody may ask.
    #[must_use]
    pub fn anonymous(mut self) -> Self {
        self.access = Access::Anonymous;
        self
    }

    /// A part of the path.
    #[must_use]
    pub fn path<T: JsonSchema>(mut self, name: &'static str, description: &str) -> Self {
        self.path_parameters.insert(name);
        self.parameter::<T>("path", name, description, true)
    }

    /// A header of the request, which may be left out.
    #[must_use]
    pub fn header<T: JsonSchema>(self, name: &str, description: &str) -> Self {
        self.parameter::<T>("header", name, description, false)
    }

    /// The query: each field of `T` is a parameter. One that cannot be read is a 400.
    #[must_use]
    pub fn query<T: JsonSchema>(mut self) -> Self {
        let mut generator = generator(Way::In);
        let mut schema = T::json_schema(&mut generator);
        RecursiveTransform(bounded).transform(&mut schema);
        self.schemas.extend(generator.take_definitions(true));
        let required = schema.get("required").and_then(Value::as_array).cloned();
        let required: BTreeSet<_> =
            required.iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let fields = schema.get("properties").and_then(Value::as_object).cloned();
        for (name, schema) in fields.unwrap_or_default() {
            let is_required = required.contains(&name);
            self.parameters.push(parameter("query", &name, None, is_required, present(schema)));
        }
        self.refuses([StatusCode::BAD_REQUEST])
    }

    /// The body, JSON. It may be refused for what it says (400, 422), for its length (413), and
    /// for taking too long (408).
    #[must_use]
    pub fn body<T: JsonSchema>(mut self) -> Self {
        let schema = self.schema::<T>(Way::In);
        self.body = Some(json!({"required": true, "content": {JSON: {"schema": schema}}}));
        self.refuses([
            StatusCode::BAD_REQUEST,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNPROCESSABLE_ENTITY,
        ])
    }

    /// An answer with a document, never to be kept by caches.
    #[must_use]
    pub fn json<T: JsonSchema>(mut self, status: StatusCode, description: &str) -> Self {
        let schema = self.schema::<T>(Way::Out);
        let mut answer = answer(description);
        answer["content"] = json!({JSON: {"schema": schema}});
        self.answers.insert(status.as_u16(), answer);
        self
    }

    /// An answer with one of two documents.
    #[must_use]
    pub fn json_either<A: JsonSchema, B: JsonSchema>(
        mut self,
        status: StatusCode,
        description: &str,
    ) -> Self {
        let schemas = [self.schema::<A>(Way::Out), self.schema::<B>(Way::Out)];
        self = self.empty(status, description);
        if let Some(answer) = self.answers.get_mut(&status.as_u16()) {
            answer["content"] = json!({JSON: {"schema": {"anyOf": schemas}}});
        }
        self
    }

    /// An answer without a body.
    #[must_use]
    pub fn empty(mut self, status: StatusCode, description: &str) -> Self {
        self.answers.insert(status.as_u16(), answer(description));
        self
    }

    /// A header that the answer with `status`, which was described before, always has.
    #[must_use]
    pub fn with<T: JsonSchema>(mut self, status: StatusCode, name: &str, words: &str) -> Self {
        let schema = self.schema::<T>(Way::Out);
        if let Some(answer) = self.answers.get_mut(&status.as_u16()) {
            answer["headers"][name] =
                json!({"description": words, "required": true, "schema": schema});
        }
        self
    }

    /// As [`Operation::with`], for a header that may be absent.
    #[must_use]
    pub fn sometimes_with<T: JsonSchema>(
        self,
        status: StatusCode,
        name: &str,
        words: &str,
    ) -> Self {
        let mut this = self.with::<T>(status, name, words);
        if let Some(answer) = this.answers.get_mut(&status.as_u16()) {
            answer["headers"][name]["required"] = json!(false);
        }
        this
    }

    /// Problem documents that it may answer.
    #[must_use]
    pub fn refuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        for status in statuses {
            let refusal = self.refusal(status);
            self.answers.insert(status.as_u16(), refusal);
        }
        self
    }

    /// Whether there is a query to be described.
    pub(super) fn takes_query(&self) -> bool {
        self.parameters.iter().any(|parameter| parameter["in"] == "query")
    }

    /// Panics unless the parameters of `path` are those that are described.
    pub(super) fn must_fit(&self, path: &str) {
        let named = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let named: BTreeSet<_> = named.collect();
        assert_eq!(named, self.path_parameters, "{}: the parameters of {path}", self.name);
    }

    /// The operation object.
    pub(super) fn document(&self) -> Value {
        let mut this = self
            .clone()
            .refuses([StatusCode::INTERNAL_SERVER_ERROR, StatusCode::SERVICE_UNAVAILABLE]);
        if self.access == Access::Proven {
            this = this.refuses([StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS]);
        }
        for (status, words) in [
            (400, "The head of the request cannot be read. Without a body"),
            (414, "The target of the request is too long. Without a body"),
            (431, "The head of the request is too long. Without a body"),
        ] {
            this.answers.entry(status).or_insert_with(|| json!({"description": words}));
        }
        let answers = this.answers.iter().map(|(status, answer)| (status.to_string(), answer));
        let answers: Map<_, _> = answers.map(|(status, answer)| (status, answer.clone())).collect();
        let mut document = json!({
            "operationId": this.name,
            "summary": this.summary,
            "parameters": this.parameters,
            "responses": answers,
        });
        if let Some(description) = this.description {
            document["description"] = description.into();
        }
        if let Some(body) = this.body {
            document["requestBody"] = body;
        }
        if this.access == Access::Anonymous {
            document["security"] = json!([]);
        }
        document
    }

    /// The schemas that the operation object refers to.
    pub(super) fn schemas(&self) -> Map<String, Value> {
        let mut schemas = self.schemas.clone();
        let mut generator = generator(Way::Out);
        generator.subschema_for::<Document<'static>>();
        schemas.extend(generator.take_definitions(true));
        schemas
    }

    fn parameter<T: JsonSchema>(
        mut self,
        place: &str,
        name: &str,
        description: &str,
        is_required: bool,
    ) -> Self {
        let schema = self.schema::<T>(Way::In).to_value();
        self.parameters.push(parameter(place, name, Some(description), is_required, schema));
        self
    }

    fn schema<T: JsonSchema>(&mut self, way: Way) -> Schema {
        let mut generator = generator(way);
        // What is not referred to has no place in the generator, where it would be transformed.
        let mut schema = generator.subschema_for::<T>();
        RecursiveTransform(bounded).transform(&mut schema);
        self.schemas.extend(generator.take_definitions(true));
        schema
    }

    fn refusal(&mut self, status: StatusCode) -> Value {
        let schema = self.schema::<Document<'static>>(Way::Out);
        let mut answer = answer(words(status));
        answer["content"] = json!({problem::MEDIA_TYPE: {"schema": schema}});
        if status == StatusCode::UNAUTHORIZED {
            answer["headers"]["WWW-Authenticate"] = json!({
                "description": "How to prove who asks",
                "required": true,
                "schema": {"type": "string", "const": "Bearer"},
            });
        }
        if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status) {
            answer["headers"]["Retry-After"] = json!({
                "description": "Seconds to wait before asking again",
                "required": true,
                "schema": {"type": "integer", "minimum": 0},
            });
        }
        answer
    }
}

/// What a status means, for people.
fn words(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "The request cannot be understood",
        StatusCode::UNAUTHORIZED => "No credential, or none that is known",
        StatusCode::FORBIDDEN => "The caller may not do this",
        StatusCode::NOT_FOUND => "No such thing, or none that the caller may have",
        StatusCode::REQUEST_TIMEOUT => "The body did not arrive in time",
        StatusCode::CONFLICT => "The request does not fit the state that things are in",
        StatusCode::PAYLOAD_TOO_LARGE => "The body is too long",
        StatusCode::UNPROCESSABLE_ENTITY => "A value is not allowed; `field` names it",
        StatusCode::TOO_MANY_REQUESTS => "The caller asks too often, or waits too often at once",
        StatusCode::INTERNAL_SERVER_ERROR => "A fault of the server",
        StatusCode::SERVICE_UNAVAILABLE => "The server cannot answer for now",
        status => status.canonical_reason().unwrap_or("A problem"),
    }
}

/// What all answers have.
fn answer(description: &str) -> Value {
    let mut answer = json!({"description": description, "headers": {}});
    let schema = json!({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"});
    answer["headers"][X_REQUEST_ID.as_str()] =
        json!({"description": "The name of the request", "required": true, "schema": schema});
    answer["headers"]["Cache-Control"] = json!({
        "description": "Nothing is to be kept",
        "required": true,
        "schema": {"type": "string", "const": "no-store"},
    });
    answer
}

fn parameter(
    place: &str,
    name: &str,
    description: Option<&str>,
    is_required: bool,
    mut schema: Value,
) -> Value {
    let mut parameter = json!({"name": name, "in": place, "required": is_required});
    // What a field says of itself belongs to the parameter.
    let own = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    match (description, own) {
        (Some(words), Some(own)) => {
            let own = own.as_str().unwrap_or_default().to_owned();
            parameter["description"] = format!("{words}: {own}").into();
        }
        (Some(words), None) => parameter["description"] = words.into(),
        (None, Some(own)) => parameter["description"] = own,
        (None, None) => {}
    }
    parameter["schema"] = schema;
    parameter
}

/// The schema of a query's field when it is there: there is no null in a query.
fn present(mut schema: Value) -> Value {
    if let Some(kinds) = schema.get_mut("type")
        && let Some(kind) = kinds.as_array().and_then(|kinds| kinds.first()).cloned()
    {
        *kinds = kind;
    }
    if let Some(kinds) = schema.get("anyOf").and_then(Value::as_array)
        && let Some(kind) = kinds.first().cloned()
    {
        return kind;
    }
    schema
}

/// Says of a whole number how large it can be: the format alone is a word that nobody has to know.
fn bounded(schema: &mut Schema) {
    let (least, most) = match schema.get("format").and_then(Value::as_str) {
        Some("uint64") => (json!(0), json!(u64::MAX)),
        Some("uint32") => (json!(0), json!(u32::MAX)),
        Some("uint16") => (json!(0), json!(u16::MAX)),
        // As wide as an address, which is 64 bits wherever this is served.
        Some("uint") => (json!(0), json!(u64::MAX)),
        Some("int32") => (json!(i32::MIN), json!(i32::MAX)),
        _ => return,
    };
    for (name, bound) in [("minimum", least), ("maximum", most)] {
        if schema.get(name).is_none() {
            schema.insert(name.to_owned(), bound);
        }
    }
}

/// Any text; see [`crate::request_id`] for what is made of it.
#[derive(JsonSchema)]
#[schemars(inline)]
struct Name(#[expect(dead_code, reason = "for its shape")] String);

fn generator(way: Way) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings.transforms.push(Box::new(RecursiveTransform(bounded)));
    });
    let settings = match way {
        Way::In => settings.for_deserialize(),
        Way::Out => settings.for_serialize(),
    };
    settings.into_generator()
}

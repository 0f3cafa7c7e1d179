//! An HTTP interface and its OpenAPI 3.1 document, made from one table: a route cannot be served
//! without being described, nor described without being served. What is answered is decided by
//! handlers; how a description is written, in [`Operation`].

mod operation;

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request};
use axum::handler::Handler;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, Route as Endpoint};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};
use tower::{Layer, Service};

use crate::routes::Shortcut;
use crate::{Origin, Problem, Routes};

pub use operation::Operation;

/// Where a listener describes itself.
pub const PATH: &str = "/openapi.json";

/// What a document says of its interface as a whole.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Its name.
    pub title: &'static str,
    /// What it is for, and what holds of all its operations; Markdown.
    pub description: &'static str,
    /// The version of the contract, and not of the program, which is nobody's business who is not
    /// known yet.
    pub version: &'static str,
}

/// The methods of one path.
pub struct Route<S = ()> {
    methods: MethodRouter<S>,
    operations: BTreeMap<&'static str, Operation>,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident $filter:ident;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name<H, T>(self, handler: H, operation: Operation) -> Self
        where
            H: Handler<T, S>,
            T: 'static,
        {
            self.on(stringify!($name), MethodFilter::$filter, handler, operation)
        }
    )*};
}

impl<S: Clone + Send + Sync + 'static> Default for Route<S> {
    fn default() -> Self {
        Self { methods: MethodRouter::new(), operations: BTreeMap::new() }
    }
}

impl<S: Clone + Send + Sync + 'static> Route<S> {
    /// No method yet.
    pub fn new() -> Self {
        Self::default()
    }

    methods! {
        /// Answers `GET`, and `HEAD` likewise without a body.
        get GET;
        /// Answers `POST`.
        post POST;
        /// Answers `PUT`.
        put PUT;
        /// Answers `DELETE`.
        delete DELETE;
    }

    fn on<H, T>(
        mut self,
        name: &'static str,
        filter: MethodFilter,
        handler: H,
        operation: Operation,
    ) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let (mut methods, mut operation) = (MethodRouter::new().on(filter, handler), operation);
        if filter != MethodFilter::GET && !operation.takes_query() {
            // Somebody who asks for a change in other words than it will be understood in, such as
            // with a `dry_run` that is not there, must not get it.
            methods = methods.route_layer(middleware::from_fn(without_query));
            operation = operation.refuses([StatusCode::BAD_REQUEST]);
        }
        self.methods = self.methods.merge(methods);
        self.operations.insert(name, operation);
        self
    }
}

async fn without_query(request: Request, next: Next) -> Response {
    match request.uri().query() {
        None | Some("") => next.run(request).await,
        Some(_) => Problem::bad_request("there are no query parameters here").into_response(),
    }
}

/// Routes with their descriptions.
pub struct Api<S = ()> {
    router: Router<S>,
    shortcuts: Vec<Shortcut>,
    paths: BTreeMap<&'static str, BTreeMap<&'static str, Operation>>,
}

impl<S: Clone + Send + Sync + 'static> Default for Api<S> {
    fn default() -> Self {
        Self { router: Router::new(), shortcuts: Vec::new(), paths: BTreeMap::new() }
    }
}

impl<S: Clone + Send + Sync + 'static> Api<S> {
    /// No route yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a path; parameters stand in it like `{this}`.
    ///
    /// # Panics
    /// If the path is there already, as axum does, or if an operation describes other parameters
    /// than the path has. Both are slips of whoever writes the table.
    #[must_use]
    pub fn route(mut self, path: &'static str, route: Route<S>) -> Self {
        for operation in route.operations.values() {
            operation.must_fit(path);
        }
        self.router = self.router.route(path, route.methods);
        self.paths.insert(path, route.operations);
        self
    }

    /// Adds the `GET` of a path that a fleet asks for by the thousand, and that ends in its only
    /// parameter. `answer` gets that parameter, empty if it is not UTF-8, and is asked without the
    /// router, and before any other route that such a path might take, if the path is written plainly:
    /// without percent-encoding and without a query.
    ///
    /// # Panics
    /// As [`Api::route`] does, and if `path` is of another form.
    #[must_use]
    pub fn shortcut<F, R>(mut self, path: &'static str, answer: F, operation: Operation) -> Self
    where
        F: Fn(&str, &HeaderMap, Origin<'_>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output: IntoResponse> + Send + 'static,
    {
        self.shortcuts.push(Shortcut::new(path, answer.clone()));
        let handler = move |parameter: Result<Path<String>, PathRejection>, request: Request| {
            let parameter = parameter.as_ref().map_or("", |Path(text)| text);
            answer(parameter, request.headers(), Origin::of(request.extensions()))
        };
        self.route(path, Route::new().get(handler, operation))
    }

    /// The routes of both.
    ///
    /// # Panics
    /// If they have a path in common.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.shortcuts.extend(other.shortcuts);
        self.paths.extend(other.paths);
        self
    }

    /// Wraps the routes that are there; see [`Router::layer`].
    ///
    /// # Panics
    /// If there is a [shortcut](Self::shortcut) among them, which goes by all layers.
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Endpoint> + Clone + Send + Sync + 'static,
        L::Service: Service<Request> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Response: IntoResponse + 'static,
        <L::Service as Service<Request>>::Error: Into<std::convert::Infallible> + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        assert!(self.shortcuts.is_empty(), "a shortcut goes by all layers");
        self.router = self.router.layer(layer);
        self
    }

    /// Gives the handlers their state.
    pub fn with_state<S2>(self, state: S) -> Api<S2> {
        let Self { router, shortcuts, paths } = self;
        Api { router: router.with_state(state), shortcuts, paths }
    }
}

impl Api {
    /// The routes alone.
    pub fn into_routes(self) -> Routes {
        Routes::new(self.router, self.shortcuts)
    }

    /// The routes, and `GET /openapi.json` beside them, which tells anybody what there is: it holds
    /// nothing that is not the same wherever the program runs.
    pub fn described(self, about: About) -> Routes {
        let description = Operation::new("describe", "This document")
            .anonymous()
            .json::<Value>(StatusCode::OK, "The document");
        let document = std::sync::OnceLock::<Bytes>::new();
        let document = std::sync::Arc::new(document);
        let shown = std::sync::Arc::clone(&document);
        let handler = move || {
            let bytes = shown.get().cloned().unwrap_or_default();
            let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
            std::future::ready((headers, bytes))
        };
        let api = self.route(PATH, Route::new().get(handler, description));
        let text = api.document(about).to_string();
        // Nobody else has had it in hand.
        let _ = document.set(Bytes::from(text));
        api.into_routes()
    }

    /// The document, by OpenAPI 3.1.
    pub fn document(&self, about: About) -> Value {
        let (mut paths, mut schemas) = (Map::new(), Map::new());
        for (path, operations) in &self.paths {
            let mut item = Map::new();
            for (method, operation) in operations {
                item.insert((*method).to_owned(), operation.document());
                schemas.extend(operation.schemas());
            }
            paths.insert((*path).to_owned(), Value::Object(item));
        }
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": about.title,
                "description": about.description,
                "version": about.version,
                "license": {"name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT"},
            },
            "servers": [{"url": "/"}],
            "security": [{"bearer": []}, {"certificate": []}],
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "A token, `stek_` and 64 hexadecimal digits. A request with \
                            this header is judged by it alone, whatever its connection's certificate.",
                    },
                    "certificate": {
                        "type": "mutualTLS",
                        "description": "A client certificate with URI or DNS subject alternative \
                            names, where the listener has `client_ca_file`.",
                    },
                },
            },
        })
    }
}

#[cfg(test)]
mod tests;

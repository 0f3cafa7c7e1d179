//! What a listener answers with: a router, and before it the few routes that a fleet asks for by the
//! thousand. Which these are is said in the table of an [`Api`](crate::api::Api).

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, Uri};
use tower::Service;

use crate::metrics::{Observe, Observing, RouteLabel};
use crate::{Origin, problem};

/// What a listener answers with. Whoever has only a router makes these [`From`] it.
#[derive(Clone)]
pub struct Routes {
    shortcuts: Arc<[Shortcut]>,
    router: Router,
    observe: Option<Observe>,
}

impl From<Router> for Routes {
    fn from(router: Router) -> Self {
        Self::new(router, vec![])
    }
}

impl fmt::Debug for Routes {
    /// As the router does: it has all of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.router.fmt(f)
    }
}

impl Routes {
    pub(crate) fn new(router: Router, shortcuts: Vec<Shortcut>) -> Self {
        Self { shortcuts: shortcuts.into(), router, observe: None }
    }

    /// These routes and those of `router`.
    ///
    /// # Panics
    /// If they have a path in common.
    #[must_use]
    pub fn merge(mut self, router: Router) -> Self {
        self.router = self.router.merge(router);
        self
    }

    /// Makes unknown routes and wrong methods answer problem documents; see
    /// [`problem::with_fallbacks`].
    #[must_use]
    pub fn with_fallbacks(mut self) -> Self {
        self.router = problem::with_fallbacks(self.router);
        self
    }

    /// No more of a body is read than this, unless a route has a limit of its own.
    pub(crate) fn limited(mut self, max_body_bytes: usize) -> Self {
        self.router = self.router.layer(DefaultBodyLimit::max(max_body_bytes));
        self
    }

    /// Counts whatever is answered.
    pub(crate) fn observed(mut self, observe: Observe) -> Self {
        self.router = self.router.layer(observe.clone());
        self.observe = Some(observe);
        self
    }

    /// The answer to a request from there.
    pub(crate) fn answer(&self, mut request: Request, origin: Origin<'_>) -> Answering {
        self.by_shortcut(&request, origin).unwrap_or_else(|| {
            origin.put_into(request.extensions_mut());
            self.by_router(request)
        })
    }

    /// The same without the router, if there is a shortcut to it.
    fn by_shortcut(&self, request: &Request, origin: Origin<'_>) -> Option<Answering> {
        if request.method() != Method::GET {
            return None;
        }
        self.shortcuts.iter().find_map(|shortcut| {
            let parameter = shortcut.parameter(request.uri())?;
            Some((shortcut.answer)(parameter, request.headers(), origin, self.observe.as_ref()))
        })
    }

    fn by_router(&self, request: Request) -> Answering {
        Box::pin(self.router.clone().call(request))
    }
}

impl Service<Request> for Routes {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // As a router is: always.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Answering {
        let by_shortcut = self.by_shortcut(&request, Origin::of(request.extensions()));
        by_shortcut.unwrap_or_else(|| self.by_router(request))
    }
}

/// An answer on its way.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

type Answer = dyn Fn(&str, &HeaderMap, Origin<'_>, Option<&Observe>) -> Answering + Send + Sync;

/// A `GET` that is answered before the router is asked: what axum does for each request is a good part
/// of an answer from memory. The router has the route too, for those who write the same path in
/// another way.
pub(crate) struct Shortcut {
    /// The path up to its only parameter, with which it ends.
    prefix: &'static str,
    answer: Box<Answer>,
}

impl Shortcut {
    /// # Panics
    /// If `path` does not end in its only parameter.
    pub(crate) fn new<F, R>(path: &'static str, answer: F) -> Self
    where
        F: Fn(&str, &HeaderMap, Origin<'_>) -> R + Send + Sync + 'static,
        R: Future<Output: IntoResponse> + Send + 'static,
    {
        let (prefix, parameter) = path.split_once('{').expect("a path with a parameter");
        assert!(
            parameter.find('}') == Some(parameter.len() - 1),
            "{path} ends in its only parameter"
        );
        let answer: Box<Answer> = Box::new(move |parameter, headers, origin, observe| {
            let begin =
                |observe: &Observe| observe.begin(RouteLabel::Known(path), &Method::GET, headers);
            let pending = observe.map(begin);
            Box::pin(Observing::new(answer(parameter, headers, origin), pending))
        });
        Self { prefix, answer }
    }

    /// What stands for the parameter, if this is such a path, written as anybody would write it.
    fn parameter<'a>(&self, uri: &'a Uri) -> Option<&'a str> {
        let parameter = uri.path().strip_prefix(self.prefix)?;
        // Unreserved characters (RFC 3986, section 2.3) are what they are in any decoding.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let fits =
            !parameter.is_empty() && parameter.bytes().all(is_plain) && uri.query().is_none();
        fits.then_some(parameter)
    }
}

#[cfg(test)]
mod tests;

//! Context of a request, which the layers of one gate share: its arrival time, its route and its identities.
//!
//! A [`Tollgate`](crate::Tollgate) is one service of three layers, with nothing between them. Its outermost layer makes a
//! [`RequestContext`] on the stack and calls the next one with it, as an argument; no request can find another one's. Layers
//! that are used apart are called through [`Service::call`](tower_service::Service::call), which passes none: what stands
//! between them may change the request, and authenticate its client.

mod request_context;

pub(crate) use request_context::{CallInner, ContextService, GatePlace, RequestContext};

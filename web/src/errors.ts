/** Errors that a person may see: one line, what happened and what to do. Names as in pipeline/errors.py. */
export class FrankenError extends Error {
  constructor(message: string) {
    super(message);
    this.name = new.target.name;
  }
}

/** Camera, video or picture. */
export class InputError extends FrankenError {}
/** The bundle or a part of it. */
export class BundleError extends FrankenError {}
/** Symbols that cannot be coded. */
export class BitstreamError extends FrankenError {}
/** The server broke the protocol. */
export class RemoteProtocolError extends FrankenError {}
/** No way to the server. */
export class TransportError extends FrankenError {}
/** The encoder does not run here. */
export class EngineError extends FrankenError {}

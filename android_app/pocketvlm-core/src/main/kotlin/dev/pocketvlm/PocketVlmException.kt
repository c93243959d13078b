package dev.pocketvlm

/** What can go wrong, in one line that names the file, the key or the option; [message] is never null. */
public sealed class PocketVlmException(message: String, cause: Throwable? = null) : Exception(message, cause) {
    /** A bundle that is damaged, swapped, hostile, or no bundle. */
    public class BundleDamaged internal constructor(message: String, cause: Throwable? = null) :
        PocketVlmException(message, cause)

    /** A bundle that only a newer library reads or runs. */
    public class BundleTooNew internal constructor(message: String) : PocketVlmException(message)

    /** A bundle of a kind that this library does not run, though another runtime does: its tokenizer, its engine. */
    public class NotPortable internal constructor(message: String) : PocketVlmException(message)

    /** A picture that is too large or empty. */
    public class ImageUnusable internal constructor(message: String) : PocketVlmException(message)

    /** A prompt that does not fit into the KV cache: [needed] of [capacity] tokens. */
    public class KvFull internal constructor(public val needed: Int, public val capacity: Int) :
        PocketVlmException("the prompt needs $needed tokens, the KV cache has $capacity: shorten it, or start a new conversation")

    /** Messages that the model's chat layout cannot say. */
    public class ChatInvalid internal constructor(message: String, cause: Throwable? = null) :
        PocketVlmException(message, cause)

    /** [needed] bytes that are not there; so many are [free]. */
    public class NoMemory internal constructor(what: String, public val needed: Long, public val free: Long, cause: Throwable? = null) :
        PocketVlmException("$what needs $needed bytes of memory, $free are free: close something, or take a smaller model", cause)

    /** The model or the conversation was closed. */
    public class Closed internal constructor(what: String = "the model") : PocketVlmException("$what is closed: open it again")

    /** ONNX Runtime failed, or gave what are no numbers. */
    public class EngineFailed internal constructor(message: String, cause: Throwable? = null) :
        PocketVlmException(message, cause)

    /** A bundle needs [needed] more bytes of the disk, which has [free]. */
    public class NoSpace internal constructor(public val needed: Long, public val free: Long, cause: Throwable? = null) :
        PocketVlmException("the bundle needs $needed more bytes of the disk, which has $free free: make room", cause)

    /** A bundle could not be fetched; [retryable] where the same call may succeed later: it goes on where it stopped. */
    public class DownloadFailed internal constructor(
        message: String,
        public val retryable: Boolean,
        cause: Throwable? = null,
    ) : PocketVlmException(message, cause)
}

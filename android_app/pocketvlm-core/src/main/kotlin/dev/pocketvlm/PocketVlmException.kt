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

    /** A prompt and its answer that do not fit into the KV cache: [needed] of [capacity] tokens. */
    public class KvFull internal constructor(public val needed: Int, public val capacity: Int) :
        PocketVlmException("the prompt and its answer need $needed tokens, the KV cache has $capacity")

    /** Messages that the model's chat layout cannot say. */
    public class ChatInvalid internal constructor(message: String) : PocketVlmException(message)

    /** ONNX Runtime failed, or gave what are no numbers. */
    public class EngineFailed internal constructor(message: String, cause: Throwable? = null) :
        PocketVlmException(message, cause)
}

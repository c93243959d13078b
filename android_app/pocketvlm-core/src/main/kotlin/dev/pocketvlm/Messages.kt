package dev.pocketvlm

/** Who says a message. */
public enum class Role(internal val key: String) { SYSTEM("system"), USER("user"), ASSISTANT("assistant") }

/** What somebody says: [images], which only the user has, stand before the [text]. */
public class Message(
    public val role: Role,
    public val text: String,
    public val images: List<Image> = emptyList(),
) {
    override fun toString(): String = "$role: $text" + if (images.isEmpty()) "" else " (${images.size} images)"
}

/**
 * How a conversation begins.
 *
 * @property system a system message, where the model's chat layout has one
 * @property dropOldest the oldest question and answer are forgotten where a new question and `maxNewTokens` of its answer
 *   would not fit behind them; otherwise such a question is refused with [PocketVlmException.KvFull]
 * @property history what was said before: user and assistant in turns
 */
public class ChatConfig(
    public val system: String? = null,
    public val dropOldest: Boolean = false,
    public val history: List<Message> = emptyList(),
)

/** Of a conversation's KV cache, in tokens: [capacity] in all, [used] by the turns so far, [ofImages] of those by images. */
public class TokenBudget internal constructor(public val capacity: Int, public val used: Int, public val ofImages: Int) {
    /** Room for a question and its answer. */
    public val left: Int get() = maxOf(capacity - used, 0)
}

package dev.pocketvlm.runtime

import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.PocketVlmException.KvFull
import dev.pocketvlm.bundle.Manifest
import dev.pocketvlm.images.laidOut
import dev.pocketvlm.images.lastSeenOf
import dev.pocketvlm.images.positionsOf
import dev.pocketvlm.text.ChatMessage
import dev.pocketvlm.text.Span
import dev.pocketvlm.text.TextTokenizer
import dev.pocketvlm.text.spansOf

/**
 * Token [ids] of a whole prompt. An image's tokens are the placeholder's id: [picture] is the index of the picture that
 * replaces it, -1 for text, [row] the row of that picture's tokens. [spans]: which tokens see what is behind them.
 */
internal class Prompt(
    val ids: IntArray,
    val picture: IntArray,
    val row: IntArray,
    val pictures: List<Picture>,
    private val spans: String,
) {
    /** How many of its tokens are images'. */
    val imageTokens: Int get() = picture.count { it >= 0 }

    /** [tokens, 3]: where they stand, for a model in which a picture's tokens have rows and columns. */
    val positions: IntArray get() = positionsOf(picture, pictures.map { it.grid })

    /** [tokens]: the last place of the cache that each may see. */
    val lastSeen: IntArray get() = lastSeenOf(picture, spans)

    /** What tells each token's input apart: its id, or its picture's content and row. */
    val keys: List<Any>
        get() = ids.indices.map { if (picture[it] < 0) ids[it] else pictures[picture[it]].digest to row[it] }
}

/**
 * The prompt that makes the assistant answer [messages], whose images are [pictures] by index.
 *
 * @throws ChatInvalid the messages do not fit the chat layout, or there are images and the model takes none
 * @throws KvFull it does not fit into the KV cache
 */
internal fun promptOf(
    messages: List<ChatMessage>,
    pictures: List<Picture>,
    manifest: Manifest,
    tokenizer: TextTokenizer,
): Prompt {
    val builder = PromptBuilder(pictures, manifest)
    val run = ArrayList<Span>()
    for (span in spans(messages, manifest, tokenizer)) {
        if (span is Span.Image) {
            builder.addText(tokenizer.encode(run, atStart = builder.isEmpty))
            run.clear()
            builder.addImage(span.index)
        } else {
            run.add(span)
        }
    }
    builder.addText(tokenizer.encode(run, atStart = builder.isEmpty))
    return builder.build()
}

/** A base model continues a text: what stands in the one message, behind the tokenizer's own BOS. */
private fun spans(messages: List<ChatMessage>, manifest: Manifest, tokenizer: TextTokenizer): List<Span> {
    manifest.chat?.let { return spansOf(messages, it) }
    val only = messages.singleOrNull() ?: throw ChatInvalid("${manifest.model.name} has no chat layout: give one text")
    return listOf(Span.Literal(tokenizer.opening)) + only.content
}

private class PromptBuilder(private val pictures: List<Picture>, private val manifest: Manifest) {
    private val ids = ArrayList<Int>()
    private val index = ArrayList<Int>()
    private val rows = ArrayList<Int>()
    private var runs = 0
    private var images = 0

    /** Whether nothing was added yet, however little. */
    val isEmpty: Boolean get() = runs == 0

    fun addText(tokens: List<Int>) {
        runs++
        for (token in tokens) add(token, -1, -1)
    }

    fun addImage(at: Int) {
        runs++
        val layout = manifest.imageLayout ?: throw ChatInvalid("${manifest.model.name} takes text only, no images")
        val picture = pictures[at]
        val vision = checkNotNull(manifest.vision)
        val tokens = picture.tokens
        checkRoom(tokens) // before they are counted out
        var row = 0 // the k-th token of an image is row k of what the tower makes of its tiles, in their order
        val together = if (vision.patches == null || picture.parts != null) picture.packed?.tokens else tokens
        for (piece in laidOut(layout, picture.grid, picture.thumbnail, picture.tokensByPlace, together, images++)) {
            for (id in piece.ids) add(id, -1, -1)
            repeat(piece.tokens) { add(checkNotNull(manifest.imageToken), at, row++) }
        }
    }

    fun build(): Prompt {
        checkRoom(ids.size)
        return Prompt(ids.toIntArray(), index.toIntArray(), rows.toIntArray(), pictures, manifest.spans)
    }

    private fun add(id: Int, picture: Int, row: Int) {
        ids.add(id)
        index.add(picture)
        rows.add(row)
    }

    private fun checkRoom(tokens: Int) {
        if (tokens > manifest.kvCache.length) throw KvFull(tokens, manifest.kvCache.length)
    }
}

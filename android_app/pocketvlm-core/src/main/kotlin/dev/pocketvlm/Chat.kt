package dev.pocketvlm

import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.PocketVlmException.Closed
import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.PocketVlmException.KvFull
import dev.pocketvlm.runtime.Added
import dev.pocketvlm.runtime.Attachments
import dev.pocketvlm.runtime.Encoded
import dev.pocketvlm.runtime.Interrupt
import dev.pocketvlm.runtime.LoadedModel
import dev.pocketvlm.runtime.Meter
import dev.pocketvlm.runtime.Prompt
import dev.pocketvlm.runtime.Session
import dev.pocketvlm.runtime.secondsSince
import dev.pocketvlm.runtime.writeChat
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.FlowCollector
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import java.io.File

/**
 * A conversation; made by [PocketVlm.chat] and [PocketVlm.restore]. Each turn is computed from the first token that differs
 * from what the KV cache holds. Any thread calls it. Questions of one conversation wait for one another: never collect one
 * answer inside another.
 *
 * An answer whose collector is cancelled, or that is cancelled by [cancel], stays in the conversation as far as it came;
 * one that fails leaves the conversation as it was before the question, with its pictures.
 */
public class Chat internal constructor(
    private val model: LoadedModel,
    private val config: ChatConfig,
    private val session: Session = model.newSession(),
    tokens: TokenBudget? = null,
) : AutoCloseable {
    private val turn = Mutex()
    private val said = MutableStateFlow(config.system?.let { listOf(Message(Role.SYSTEM, it)) }.orEmpty() + config.history)
    private val added = Attachments(model)

    @Volatile
    private var answering: Interrupt? = null

    @Volatile
    private var isClosed = false

    init {
        if (model.manifest.chat == null) {
            throw ChatInvalid("${model.manifest.model.name} has no chat layout: stream() continues a text")
        }
    }

    /** The turns so far; one more when a question is asked, and its answer when that has ended. */
    public val messages: StateFlow<List<Message>> = said.asStateFlow()

    /** The pictures that wait for the next question. */
    public val attachments: StateFlow<List<Attachment>> get() = added.shown

    /** Of the KV cache, as of the last answer. */
    @Volatile
    public var budget: TokenBudget = tokens ?: TokenBudget(model.manifest.kvCache.length, 0, 0)
        private set

    /**
     * Adds a picture, which will stand before the next question, and begins to encode it in the background; returns at
     * once.
     *
     * @throws ImageUnusable it was prepared for another model
     * @throws ChatInvalid the model takes text only
     * @throws Closed the model or the conversation was closed
     */
    public fun addImage(image: Image): Attachment {
        checkOpen()
        return added.add(image)
    }

    /**
     * Asks a question about the pictures that were added, and streams the answer. Nothing happens until it is collected;
     * cancelling the collector ends the answer within a run of the engine.
     *
     * The flow fails with [KvFull], [ImageUnusable], [ChatInvalid], [PocketVlmException.NoMemory],
     * [PocketVlmException.EngineFailed], or [Closed] where the model or the conversation is closed meanwhile.
     */
    public fun stream(text: String, generation: GenerationConfig = GenerationConfig()): Flow<Piece> =
        stream(Message(Role.USER, text), generation)

    /** The same with a message, whose own images stand behind those that were added. */
    public fun stream(message: Message, generation: GenerationConfig = GenerationConfig()): Flow<Piece> =
        turn(generation) { before, pictures ->
            before + prepared(Message(message.role, message.text, pictures + message.images))
        }

    /** The whole answer to a question. Errors: [stream]. */
    public suspend fun ask(text: String, generation: GenerationConfig = GenerationConfig()): Answer =
        stream(text, generation).whole()

    /** Answers the last question again, with another seed, say. Errors: [stream]; [ChatInvalid] where nothing was asked. */
    public fun regenerate(generation: GenerationConfig = GenerationConfig()): Flow<Piece> =
        turn(generation, usesAttachments = false) { before, _ ->
            if (before.lastOrNull()?.role != Role.ASSISTANT) throw ChatInvalid("nothing was answered yet")
            before.dropLast(1)
        }

    /**
     * Asks the user's message at [index] of [messages] in other words, with its images; what follows it is forgotten.
     * Errors: [stream]; [ChatInvalid] where there is no such message.
     */
    public fun edit(index: Int, text: String, generation: GenerationConfig = GenerationConfig()): Flow<Piece> =
        turn(generation, usesAttachments = false) { before, _ ->
            val old = before.getOrNull(index)?.takeIf { it.role == Role.USER }
                ?: throw ChatInvalid("message $index is no question of the user's that could be edited")
            before.take(index) + prepared(Message(Role.USER, text, old.images))
        }

    /** The answer that is being made ends within a run of the engine, and its flow completes. Returns at once. */
    public fun cancel() {
        answering?.end(FinishReason.CANCELLED)
    }

    /**
     * Forgets the last so many messages.
     *
     * @throws IllegalStateException an answer is being made: [cancel] it, and let its flow complete
     * @throws IllegalArgumentException there are not so many
     */
    public fun rewind(messages: Int) {
        check(turn.tryLock()) { "an answer is being made: cancel it first" }
        try {
            require(messages in 0..said.value.size) { "there are ${said.value.size} messages, not $messages" }
            said.value = said.value.dropLast(messages)
        } finally {
            turn.unlock()
        }
    }

    /**
     * Writes the conversation to a file, without pictures that wait: its messages, its pictures' tokens, and [withCache] the
     * rows of the KV cache, without which the next answer computes all of it again. An answer that is being made ends
     * first. A file that was there is replaced when all is written.
     *
     * @throws java.io.IOException the file cannot be written
     * @throws Closed the model or the conversation was closed
     */
    public suspend fun save(to: File, withCache: Boolean = true): Unit = turn.withLock {
        checkOpen()
        writeChat(to, model, session, config, said.value, budget, withCache)
    }

    /** From any thread, at any time, without waiting: an answer that is being made ends with [Closed]. */
    override fun close() {
        if (isClosed) return
        isClosed = true
        answering?.end(FinishReason.CANCELLED)
        added.close()
        model.release(session)
    }

    /** An answer to what [whole] makes of the turns so far and the pictures that were added. */
    private fun turn(
        generation: GenerationConfig,
        usesAttachments: Boolean = true,
        whole: suspend (before: List<Message>, pictures: List<Image>) -> List<Message>,
    ): Flow<Piece> = flow {
        turn.withLock {
            checkOpen()
            Interrupt().use { interrupt ->
                answering = interrupt
                try {
                    val meter = Meter(model.loadSeconds)
                    val used = if (usesAttachments) added.all() else emptyList()
                    val before = said.value
                    val pictures = used.map { it.encoded.await() }
                    val (messages, prompt) = fitting(whole(before, pictures.map { Image(it.picture) }), generation)
                    meter.preprocessSeconds = secondsSince(meter.asked)
                    val started = pictures.filter { !it.hasFailed }.associateBy { it.picture.digest }
                    answer(Asked(before, messages, prompt, used, started), generation, interrupt, meter)
                } finally {
                    answering = null
                }
            }
        }
    }

    private class Asked(
        val before: List<Message>,
        val messages: List<Message>,
        val prompt: Prompt,
        val used: List<Added>,
        val started: Map<String, Encoded>,
    )

    private suspend fun FlowCollector<Piece>.answer(
        asked: Asked,
        generation: GenerationConfig,
        interrupt: Interrupt,
        meter: Meter,
    ) {
        val text = StringBuilder()
        var pieces = 0
        said.value = asked.messages
        added.take(asked.used)
        var failed = false
        try {
            model.answer(session, asked.prompt, generation, interrupt, meter, asked.started).collect { piece ->
                checkOpen()
                text.append(piece.text)
                pieces++
                emit(piece)
            }
        } catch (error: PocketVlmException) {
            failed = true
            throw error
        } catch (error: OutOfMemoryError) {
            failed = true
            throw error
        } finally {
            if (failed) {
                said.value = asked.before
                added.giveBack(asked.used)
            } else { // whole, or ended in the middle
                said.value = asked.messages + Message(Role.ASSISTANT, text.toString())
                val size = asked.prompt.ids.size
                budget = TokenBudget(model.manifest.kvCache.length, size + pieces, asked.prompt.imageTokens)
                asked.used.forEach { it.release(removed = false) }
            }
        }
    }

    /** The conversation and its prompt, without the oldest turns where it shall fit without them. */
    private suspend fun fitting(whole: List<Message>, generation: GenerationConfig): Pair<List<Message>, Prompt> {
        val room = model.manifest.kvCache.length - generation.maxNewTokens
        var messages = whole
        while (true) {
            val shorter = if (config.dropOldest) withoutOldest(messages) else null
            val prompt = try {
                model.render(messages)
            } catch (full: KvFull) {
                if (shorter == null) throw full else null
            }
            if (prompt != null && (shorter == null || prompt.ids.size <= room)) return messages to prompt
            messages = checkNotNull(shorter)
        }
    }

    /** The message with its pictures cut once and for all. */
    private suspend fun prepared(message: Message): Message =
        Message(message.role, message.text, message.images.map { Image(model.prepare(it)) })

    private fun checkOpen() {
        if (isClosed) throw Closed("the conversation")
        model.checkOpen()
    }
}

/** The conversation without its first question and answer, or null where only a question is left. */
private fun withoutOldest(messages: List<Message>): List<Message>? {
    val first = if (messages.firstOrNull()?.role == Role.SYSTEM) 1 else 0
    val rest = messages.drop(first + 2)
    return if (rest.isEmpty()) null else messages.take(first) + rest
}

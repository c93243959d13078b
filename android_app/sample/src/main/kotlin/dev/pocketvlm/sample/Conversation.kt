package dev.pocketvlm.sample

import android.content.Context
import android.net.Uri
import dev.pocketvlm.Attachment
import dev.pocketvlm.Chat
import dev.pocketvlm.GenerationConfig
import dev.pocketvlm.Message
import dev.pocketvlm.Piece
import dev.pocketvlm.PocketVlm
import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.Role
import dev.pocketvlm.Stats
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableSharedFlow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.SharedFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.collectLatest
import kotlinx.coroutines.launch
import java.io.IOException

/**
 * An answer that is being written.
 *
 * @property behind it stands behind so many messages
 * @property question null where it is answered again and stands among the messages
 */
internal class Running(
    val behind: Int,
    val question: String?,
    val pictures: List<SeenPicture>,
    val text: String = "",
    val stats: Stats? = null,
) {
    fun plus(piece: Piece) = Running(behind, question, pictures, text + piece.text, piece.stats)
}

/** A picture that waits for a question. */
internal class Pending(val attachment: Attachment, val picture: SeenPicture)

/** A chat, what its messages look like, and the answer that is being written. Used on the main thread. */
internal class Conversation(
    private val context: Context,
    private val scope: CoroutineScope,
    val model: PocketVlm,
    private val kept: KeptChat,
    private val readAloud: ReadAloud,
    private val report: (Problem) -> Unit,
) {
    private val chats = MutableStateFlow(model.chat())
    private val answers = MutableStateFlow<Running?>(null)
    private val spoken = MutableSharedFlow<String>(extraBufferCapacity = SENTENCES)
    private val attachments = MutableStateFlow<List<Pending>>(emptyList())
    private val looks = HashMap<Attachment, SeenPicture>()
    private val pictures = HashMap<Int, List<SeenPicture>>()
    private val costs = HashMap<Int, Stats>()
    private var job: Job? = null

    /** The present chat; another one after [startNew]. */
    val chat: StateFlow<Chat> get() = chats
    val running: StateFlow<Running?> get() = answers

    /** Sentences of the answer, each when it is complete. */
    val sentences: SharedFlow<String> get() = spoken

    /** Of the newest answer. */
    var lastStats: Stats? = null
        private set

    /** A question that could not be answered: it goes back to where it was typed. */
    val returned = MutableStateFlow<String?>(null)

    val isBusy: Boolean get() = answers.value != null

    /** Pictures that the next question is about. */
    val pending: StateFlow<List<Pending>> get() = attachments

    init {
        scope.launch { chats.collectLatest { chat -> chat.attachments.collect { lookUp() } } }
    }

    /** The pictures of the message at [index]. */
    fun picturesOf(index: Int, message: Message): List<SeenPicture> = pictures.getOrPut(index) {
        message.images.map { SeenPicture(it.width, it.height, null, model.preview(it.width, it.height)) }
    }

    fun statsOf(index: Int): Stats? = costs[index]

    /** The picture that is, or was last, shown large. */
    var opened: SeenPicture? = null

    /** Adds a picture that another app gives to the next question. */
    fun attach(uri: Uri) {
        scope.launch {
            try {
                attach(loadPicture(context, uri))
            } catch (error: CancellationException) {
                throw error
            } catch (error: Exception) {
                report(context.explain(error))
            }
        }
    }

    private fun attach(picture: Picture) {
        val attachment = chats.value.addImage(picture.image)
        looks[attachment] = SeenPicture(picture.image.width, picture.image.height, picture.shown, attachment.tiling)
        lookUp() // the chat's list grew before the look was known
    }

    private fun lookUp() {
        attachments.value = chats.value.attachments.value.mapNotNull { one -> looks[one]?.let { Pending(one, it) } }
    }

    fun ask(text: String) {
        if (isBusy || text.isBlank()) return
        val chat = chats.value
        val shown = attachments.value.map { it.picture }
        val behind = chat.messages.value.size
        pictures[behind] = shown
        follow(Running(behind, text, shown), chat) { chat.stream(text, GENERATION) }
    }

    /** Answers the last question again. */
    fun regenerate() {
        val chat = chats.value
        if (isBusy || chat.messages.value.lastOrNull()?.role != Role.ASSISTANT) return
        follow(Running(chat.messages.value.size - 1, null, emptyList()), chat) { chat.regenerate(AGAIN) }
    }

    fun stop() {
        readAloud.stop()
        chats.value.cancel()
    }

    fun startNew() {
        readAloud.stop()
        job?.cancel()
        answers.value = null
        chats.value.close()
        looks.clear()
        pictures.clear()
        costs.clear()
        lastStats = null
        kept.delete()
        chats.value = model.chat()
        opened = null
    }

    fun close() {
        readAloud.stop()
        job?.cancel()
        answers.value = null
        model.close()
    }

    /** Goes on with the chat that was kept when the process ended, if there is one. */
    suspend fun restore() {
        val file = kept.file ?: return
        try {
            val restored = model.restore(file)
            chats.value.close()
            chats.value = restored
            pictures.putAll(kept.pictures(restored.messages.value, model))
        } catch (_: PocketVlmException) {
            kept.delete() // of another version of the model: a new chat begins
        }
    }

    /** Keeps the chat for a time when the process is gone. */
    fun keep() {
        if (!isBusy) scope.launch { save() }
    }

    private suspend fun save() {
        val chat = chats.value
        if (chat.messages.value.isEmpty()) return
        try {
            kept.save(chat, pictures)
        } catch (error: PocketVlmException) {
            if (error !is PocketVlmException.Closed) report(context.explain(error))
        } catch (error: IOException) {
            report(context.explain(error))
        }
    }

    private fun follow(begun: Running, chat: Chat, pieces: () -> Flow<Piece>) {
        answers.value = begun
        val sentences = Sentences(context.resources.configuration.locales[0])
        // At once, so that it can be stopped at once.
        job = scope.launch(start = CoroutineStart.UNDISPATCHED) {
            try {
                pieces().collect { piece ->
                    answers.value = answers.value?.plus(piece)
                    sentences.add(piece.text).forEach(::say)
                }
                sentences.rest().forEach(::say)
                ended(begun, chat)
            } catch (error: CancellationException) {
                throw error
            } catch (error: Exception) {
                returned.value = begun.question
                report(context.explain(error))
            } finally {
                if (chats.value === chat) answers.value = null
            }
            save()
        }
    }

    private fun ended(begun: Running, chat: Chat) {
        lastStats = answers.value?.stats
        val answer = chat.messages.value.size - 1
        lastStats?.let { if (answer >= begun.behind) costs[answer] = it }
        looks.keys.retainAll(chat.attachments.value.toSet())
    }

    private fun say(sentence: String) {
        spoken.tryEmit(sentence)
        readAloud.say(sentence)
    }

    private companion object {
        const val SENTENCES = 64
        val GENERATION = GenerationConfig(maxNewTokens = 512)

        /** Another answer than the most likely one, which is there already. */
        val AGAIN = GenerationConfig(maxNewTokens = 512, temperature = 0.7, topP = 0.9)
    }
}

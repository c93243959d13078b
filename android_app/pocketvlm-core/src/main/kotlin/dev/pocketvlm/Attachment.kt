package dev.pocketvlm

import kotlinx.coroutines.flow.StateFlow

/** How far a picture's encoding is. */
public sealed class Encoding {
    /** It waits for another one. */
    public object Waiting : Encoding()

    /** [tilesDone] of [tiles] are encoded. */
    public class Running internal constructor(public val tilesDone: Int, public val tiles: Int) : Encoding()

    /** It took so many [seconds]; 0 where the same picture was kept. */
    public class Ready internal constructor(public val seconds: Double) : Encoding()

    /** The question that uses the picture fails with [error] too, unless it is removed before. */
    public class Failed internal constructor(public val error: PocketVlmException) : Encoding()

    /** [Attachment.remove] came first, or the model was closed. */
    public object Removed : Encoding()
}

/** A picture that waits for the next question of a conversation; made by [Chat.addImage]. */
public class Attachment internal constructor(
    public val image: Image,
    public val tiling: ImageTiling,
    public val state: StateFlow<Encoding>,
    private val removed: (Attachment) -> Unit,
) {
    /** Takes the picture out again; one that is being encoded is stopped. Nothing happens where it was asked about. */
    public fun remove(): Unit = removed(this)
}
